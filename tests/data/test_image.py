"""Every kind of picture a user may bring, made here and read back."""

import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tritonnet.data import DataError, list_images, load_image, read_mask, resize_mask
from tritonnet.data.image import fit_image, image_header

RGB = np.random.Generator(np.random.PCG64(1)).integers(0, 256, (6, 8, 3), np.uint8)
GREY = RGB[:, :, 0].copy()


def save(path: Path, array: np.ndarray, mode: str | None = None, **options: object) -> Path:
    picture = Image.fromarray(array)
    (picture.convert(mode) if mode else picture).save(path, **options)
    return path


LOSSLESS = {
    "png-rgb": ("a.png", RGB, {}, RGB),
    "bmp-rgb": ("a.bmp", RGB, {}, RGB),
    "png-grey": ("a.png", GREY, {}, GREY[:, :, None].repeat(3, 2)),
    "gif-grey": ("a.gif", GREY, {}, GREY[:, :, None].repeat(3, 2)),
    "gif-named-jpg": ("a.jpg", GREY, {"format": "GIF"}, GREY[:, :, None].repeat(3, 2)),
    "png-named-jpg": ("a.jpg", RGB, {"format": "PNG"}, RGB),
    "upper-case": ("A.PNG", RGB, {"format": "PNG"}, RGB),
}


@pytest.mark.parametrize("case", LOSSLESS)
def test_lossless_kinds_come_back_exactly(case: str, tmp_path: Path) -> None:
    name, array, options, expected = LOSSLESS[case]
    image = load_image(save(tmp_path / name, array, **options))
    assert image.dtype == np.uint8
    assert (image == expected).all()
    assert list_images(tmp_path) == [tmp_path / name]


def test_jpeg_comes_back_nearly(tmp_path: Path) -> None:
    smooth = np.linspace(0, 255, 64, dtype=np.uint8).reshape(8, 8)
    image = load_image(save(tmp_path / "a.jpg", smooth, quality=95), channels=1)
    assert image.shape == (8, 8, 1)
    assert np.abs(image[:, :, 0].astype(int) - smooth).max() <= 6


def test_palette_pictures_show_their_colours(tmp_path: Path) -> None:
    picture = Image.new("P", (2, 2))
    picture.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255])
    picture.putpixel((1, 0), 1)
    picture.putpixel((0, 1), 2)
    picture.save(tmp_path / "a.gif")
    red, green, blue = [255, 0, 0], [0, 255, 0], [0, 0, 255]
    assert load_image(tmp_path / "a.gif").tolist() == [[red, green], [blue, red]]


def test_transparent_pixels_are_shown_over_black(tmp_path: Path) -> None:
    rgba = np.dstack([RGB, np.full((6, 8), 255, np.uint8)])
    rgba[0, 0, 3] = 0
    image = load_image(save(tmp_path / "a.png", rgba))
    assert (image[0, 0] == 0).all()
    assert (image[1:] == RGB[1:]).all()


def test_16_bit_grey_keeps_its_bits(tmp_path: Path) -> None:
    deep = (np.arange(48, dtype=np.uint16).reshape(6, 8) * 1365).astype(np.uint16)
    path = save(tmp_path / "a.png", deep)
    wide = load_image(path, wide=True, channels=1)
    assert wide.dtype == np.uint16
    assert (wide[:, :, 0] == deep).all()
    assert (load_image(path, channels=1)[:, :, 0] == np.rint(deep / 257)).all()
    assert load_image(path, 4, wide=True).shape == (4, 4, 3)


def test_8_bit_read_wide_spans_16_bits(tmp_path: Path) -> None:
    path = save(tmp_path / "a.png", GREY)
    assert (load_image(path, wide=True)[:, :, 0] == GREY.astype(int) * 257).all()


TIFFS = {
    "plain": (RGB, {}),
    "grey": (GREY, {}),
    "lzw": (RGB, {"compression": "tiff_lzw"}),
    "16-bit": (GREY.astype(np.uint16) * 200 + 7, {"compression": "tiff_adobe_deflate"}),
    "32-bit-that-fits": (GREY.astype(np.int32) * 200, {}),
}


@pytest.mark.parametrize("case", TIFFS)
def test_tiff(case: str, tmp_path: Path) -> None:
    array, options = TIFFS[case]
    path = save(tmp_path / "A.TIFF", array, **options)
    assert list_images(tmp_path) == [path]
    wide = array.dtype != np.uint8
    assert (image_header(path).size, image_header(path).wide) == ((8, 6), wide)
    image = load_image(path, wide=wide)
    assert (image == (array if array.ndim == 3 else array[:, :, None])).all()
    assert (read_mask(path).values == (array if array.ndim == 2 else RGB.astype(int) @ [65536, 256, 1])).all()


DEEP = np.random.Generator(np.random.PCG64(2)).integers(0, 2**16, (6, 8, 4), np.uint16)


def tiff(path: Path, array: np.ndarray, *, order: str = "<", kind: int = 2, alpha: int = 2, **how: int) -> Path:
    """A TIFF of 16-bit colours, which Pillow does not write; `planes` one after the other if asked."""
    h, w, c = array.shape
    parts = [array[:, :, i] for i in range(c)] if how.get("planes") else [array]
    parts = [part.astype(f"{order}u2").tobytes() for part in parts]
    parts = [zlib.compress(part) for part in parts] if how.get("packed") else parts
    tags: list[tuple[int, str, list[int]]] = [
        (256, "I", [w]), (257, "I", [h]), (258, "H", [16] * c), (259, "H", [8 if how.get("packed") else 1]),
        (262, "H", [kind]), (273, "I", []), (277, "H", [c]), (278, "I", [h]), (279, "I", [len(p) for p in parts]),
        (284, "H", [2 if how.get("planes") else 1]), *([(338, "H", [alpha])] if c == 4 and kind == 2 else []),
    ]  # fmt: skip
    start, body, entries = 14 + 12 * len(tags), b"", b""
    for part in parts:
        tags[5][2].append(start + len(body))
        body += part + bytes(len(part) % 2)
    for tag, letter, values in tags:
        packed = struct.pack(f"{order}{len(values)}{letter}", *values)
        if len(packed) > 4:
            packed, body = struct.pack(f"{order}I", start + len(body)), body + packed
        entries += struct.pack(f"{order}HHI", tag, 4 if letter == "I" else 3, len(values)) + packed.ljust(4, b"\0")
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}IH", 8, len(tags))
    path.write_bytes(head + entries + bytes(4) + body)
    return path


def png(path: Path, array: np.ndarray) -> Path:
    """A PNG of 16-bit colours; the rows are filtered by Sub, so that the bytes of a pixel before matter."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    h, w, c = array.shape
    raw = array.astype(">u2").view(np.uint8).reshape(h, w, 2 * c)
    less = np.pad(raw, ((0, 0), (1, 0), (0, 0)))[:, :-1]
    rows = b"".join(b"\1" + row.tobytes() for row in raw - less)
    head = struct.pack(">IIBBBBB", w, h, 16, 2 if c == 3 else 6, 0, 0, 0)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + b"".join(chunk(*c) for c in ((b"IHDR", head), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")))
    )
    return path


COLOURS_16: dict[str, Callable[[Path], Path]] = {
    "tiff-little": lambda folder: tiff(folder / "a.tif", DEEP[:, :, :3]),
    "tiff-big": lambda folder: tiff(folder / "a.tif", DEEP[:, :, :3], order=">"),
    "tiff-little-packed": lambda folder: tiff(folder / "a.tif", DEEP[:, :, :3], packed=1),
    "tiff-big-packed": lambda folder: tiff(folder / "a.tif", DEEP[:, :, :3], order=">", packed=1),
    "tiff-filler": lambda folder: tiff(folder / "a.tif", DEEP, alpha=0),
    "tiff-alpha": lambda folder: tiff(folder / "a.tif", DEEP),
    "png": lambda folder: png(folder / "a.png", DEEP[:, :, :3]),
    "png-alpha": lambda folder: png(folder / "a.png", DEEP),
}


@pytest.mark.parametrize("case", COLOURS_16)
def test_16_bit_colours_keep_their_bits(case: str, tmp_path: Path) -> None:
    path = COLOURS_16[case](tmp_path)
    assert image_header(path).wide
    expected = np.rint(DEEP[:, :, :3] * (DEEP[:, :, 3:] / 65535)) if case.endswith("alpha") else DEEP[:, :, :3]
    assert (load_image(path, wide=True) == expected).all()
    assert (load_image(path) == np.floor(expected / 257 + 0.5)).all()
    with pytest.raises(DataError, match="has colours of 16 bits that 8 cannot hold; save the mask with 8 bits"):
        read_mask(path)


def test_a_mask_of_16_bit_colours_that_are_8_bit_ones(tmp_path: Path) -> None:
    path = png(tmp_path / "a.png", RGB.astype(np.uint16) * 257)
    assert (read_mask(path).values == RGB.astype(int) @ [65536, 256, 1]).all()


@pytest.mark.parametrize(
    ("how", "name"),
    [
        ({"planes": 1}, "planes;16"),
        ({"planes": 1, "packed": 1}, "planes;16"),
        ({"alpha": 1}, "RGBa;16L"),
        ({"kind": 5}, "CMYK;16L"),
    ],
)
def test_16_bit_colours_that_pillow_scrambles_or_cuts_are_refused(
    how: dict[str, int], name: str, tmp_path: Path
) -> None:
    path = tiff(tmp_path / "a.tif", DEEP[:, :, : 3 if "planes" in how else 4], **how)
    with pytest.raises(DataError, match=f"16-bit colours are read as RGB or RGBA, pixel by pixel, not as {name}"):
        load_image(path, wide=True)


def test_tiff_refuses(tmp_path: Path) -> None:
    first, second = Image.fromarray(GREY), Image.fromarray(GREY)
    first.save(tmp_path / "pages.tif", save_all=True, append_images=[second])
    save(tmp_path / "float.tif", GREY / np.float32(255))
    save(tmp_path / "deep.tif", GREY.astype(np.int32) * 1000)
    save(tmp_path / "turned.tif", GREY, tiffinfo={0x0112: 6})
    for name, match in (
        ("pages", "holds 2 pages; save each page"),
        ("float", "32 bits a value; 8 and 16 are read"),
        ("deep", "32 bits a value"),
        ("turned", "is a TIFF with EXIF orientation 6, of which only 1 is read"),
    ):
        for read in (load_image, read_mask):
            with pytest.raises(DataError, match=rf"{name}\.tif: .*{match}"):
                read(tmp_path / f"{name}.tif")
    with pytest.raises(DataError, match=r"turned\.tif: is a TIFF with EXIF orientation 6, of which only 1 is read"):
        image_header(tmp_path / "turned.tif")


def test_arrays_are_fitted_like_pictures(tmp_path: Path) -> None:
    path = save(tmp_path / "a.png", RGB)
    for size, channels, wide in ((None, 3, False), (4, 1, False), (4, 3, True)):
        expected = load_image(path, size, channels=channels, wide=wide)
        assert (fit_image(RGB, size, channels=channels, wide=wide) == expected).all()
    deep = RGB.astype(np.uint16) * 200
    assert (fit_image(deep, None, channels=3, wide=True) == deep).all()
    luma = np.rint(deep @ np.array([0.299, 0.587, 0.114], np.float32))
    assert (fit_image(deep, None, channels=1, wide=True)[:, :, 0] == luma).all()
    assert fit_image(deep[:, :, :1], 4, channels=3, wide=False).dtype == np.uint8


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_honoured(orientation: int, tmp_path: Path) -> None:
    upright = np.zeros((16, 32), np.uint8)
    upright[:8, :16] = 255
    # what a camera stores so that the orientation turns it upright
    stored = {
        1: upright, 2: upright[:, ::-1], 3: upright[::-1, ::-1], 4: upright[::-1],
        5: upright.T, 6: np.rot90(upright, 1), 7: np.rot90(upright.T, 2), 8: np.rot90(upright, -1),
    }[orientation]  # fmt: skip
    exif = Image.Exif()
    exif[0x0112] = orientation
    for name in ("a.jpg", "a.png"):
        image = load_image(save(tmp_path / name, np.ascontiguousarray(stored), exif=exif), channels=1)[:, :, 0]
        assert ((image > 127) == (upright > 127)).all()


def test_resize_is_pillows_bilinear(tmp_path: Path) -> None:
    expected = np.asarray(Image.fromarray(RGB).resize((5, 5), Image.Resampling.BILINEAR))
    assert (load_image(save(tmp_path / "a.png", RGB), 5) == expected).all()


def test_colours_become_luma_in_one_channel(tmp_path: Path) -> None:
    expected = np.asarray(Image.fromarray(RGB).convert("L"))
    assert (load_image(save(tmp_path / "a.png", RGB), channels=1)[:, :, 0] == expected).all()


def palette_mask(path: Path, index: np.ndarray, palette: list[int]) -> Path:
    picture = Image.new("P", index.shape[::-1])
    picture.putpalette(palette)
    picture.putdata(index.ravel().tolist())
    picture.save(path)
    return path


def test_masks_give_raw_values(tmp_path: Path) -> None:
    ids = np.array([[0, 1, 2], [2, 1, 0]], np.uint8)
    deep = ids.astype(np.uint16) * 1000
    assert (read_mask(save(tmp_path / "l.png", ids))[0] == ids).all()
    assert (read_mask(save(tmp_path / "rgb.png", ids[:, :, None].repeat(3, 2)))[0] == ids).all()
    assert (read_mask(save(tmp_path / "rgba.png", ids, "RGBA"))[0] == ids).all()
    assert (read_mask(save(tmp_path / "deep.png", deep))[0] == deep).all()
    assert (read_mask(save(tmp_path / "one.png", (ids == 1) * np.uint8(255), "1"))[0] == (ids == 1) * 255).all()


def test_a_coloured_palette_gives_numbers_and_colours(tmp_path: Path) -> None:
    raw, colours, _ = read_mask(palette_mask(tmp_path / "a.png", np.array([[0, 1, 1]]), [0, 0, 0, 200, 10, 20]))
    assert raw.tolist() == [[0, 1, 1]]
    assert colours == {0: (0, 0, 0), 1: (200, 10, 20)}


def test_a_palette_of_greys_gives_the_greys(tmp_path: Path) -> None:
    raw, colours, _ = read_mask(palette_mask(tmp_path / "a.png", np.array([[0, 1, 1]]), [255, 255, 255, 0, 0, 0]))
    assert raw.tolist() == [[255, 0, 0]]
    assert colours is None


def test_mask_resize_makes_no_new_values() -> None:
    mask = np.array([[0, 7], [255, 0]], np.uint8)
    assert set(np.unique(resize_mask(mask, 33))) == {0, 7, 255}
    assert resize_mask(mask, 2) is mask


def test_refuses(tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("not a picture")
    (tmp_path / "empty.png").touch()
    whole = save(tmp_path / "whole.png", RGB).read_bytes()
    (tmp_path / "cut.png").write_bytes(whole[: len(whole) // 2])
    whole = save(tmp_path / "whole.jpg", np.tile(RGB, (20, 20, 1))).read_bytes()
    (tmp_path / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"empty\.png: is empty"):
        load_image(tmp_path / "empty.png")
    for name in ("text.png", "empty.png", "cut.png", "cut.jpg", "none.png"):
        with pytest.raises(DataError, match=name):
            load_image(tmp_path / name)
    with pytest.raises(DataError, match="no such file or folder"):
        list_images(tmp_path / "nowhere")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / ".hidden").touch()
    with pytest.raises(DataError, match="holds no picture"):
        list_images(tmp_path / "folder")
    (tmp_path / "folder" / "a.webp").touch()
    with pytest.raises(DataError, match=r"a\.webp.*convert it to PNG"):
        list_images(tmp_path / "folder")
