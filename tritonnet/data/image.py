"""Picture files as arrays: one place that opens them, for training, evaluation and prediction alike.

PNG, JPEG, TIFF (one page), GIF (first frame) and BMP, recognised by content, so a GIF named `.jpg` opens. The EXIF
orientation is applied. Transparent pixels are shown over black, as a viewer would, since the colours hidden under them
are arbitrary. 16-bit PNG and TIFF keep their 16 bits, grey or coloured.
"""

import sys
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from tritonnet.io import FileError

__all__ = [
    "PICTURES", "DataError", "Header", "RawMask", "fit_image", "image_header", "list_images", "load_image", "read_mask",
    "resize_mask",
]  # fmt: skip

Colour = tuple[int, int, int]

PICTURES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".gif", ".bmp")
_FORMATS = ("PNG", "JPEG", "TIFF", "GIF", "BMP")
_CLUTTER = ("thumbs.db", "desktop.ini")  # what file managers leave behind
_ROTATES = (5, 6, 7, 8)  # EXIF orientations that exchange width and height
_WIDE = ("I;16", "I;16B", "I;16L", "I")  # older Pillow opens a 16-bit grey PNG as I
# Of 16-bit colours Pillow hands over the high bytes; asked for the other byte order, the low ones.
_OTHER_ORDER = {"L": "B", "B": "L", "N": "B" if sys.byteorder == "little" else "L"}
_DEEP = ("RGB;16", "RGBX;16", "RGBA;16")


class DataError(FileError):
    """Something is wrong with the user's files. One line: which file, what is wrong, what to do."""


def list_images(path: str | Path, *, others_allowed: bool = False) -> list[Path]:
    """The pictures to read: `path` itself if it is a file, else its pictures sorted by file name.

    Hidden files are passed over.

    Args:
        path: a picture or a folder.
        others_allowed: pass over files that are not named as pictures, too.

    Raises:
        DataError: no such path, no picture, or (unless allowed) a file among them that is not named as a picture.
    """
    path = Path(path)
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise DataError(f"{path}: no such file or folder")
    found = sorted(f for f in path.iterdir() if f.is_file() and not _is_clutter(f))
    if others_allowed:
        found = [file for file in found if file.suffix.lower() in PICTURES]
    if not found:
        inside = ", ".join(sorted(f.name for f in path.iterdir() if f.is_dir() and not _is_clutter(f))[:6])
        but = f" but the folders {inside}, which are not searched" if inside else ""
        raise DataError(f"{path}: the folder holds no picture{but}; put PNG, JPEG, TIFF, GIF or BMP files into it")
    for file in found:
        if file.suffix.lower() not in PICTURES:
            raise DataError(f"{file}: not a {', '.join(PICTURES)} file; convert it to PNG or move it out of the folder")
    return found


def _is_clutter(path: Path) -> bool:
    return path.name.startswith(".") or path.name.lower() in _CLUTTER


class Header(NamedTuple):
    """From a file's first bytes: (width, height) once upright, EXIF orientation 1 to 8, Pillow's format and mode.

    For 16-bit colours, which Pillow has no mode for, `mode` is how the file holds them, such as RGB;16B.
    """

    size: tuple[int, int]
    orientation: int
    format: str
    mode: str
    lossy: bool

    @property
    def wide(self) -> bool:
        """16 bits a value."""
        return self.mode == "I" or ";16" in self.mode


def image_header(path: Path) -> Header:
    """Read no pixels.

    Raises:
        DataError: not a picture.
    """
    with _open(path) as picture:
        turn = _orientation(path, picture)
        size = picture.size[::-1] if turn in _ROTATES else picture.size
        lossy = picture.format in ("JPEG", "MPO") or picture.info.get("compression") == "jpeg"
        return Header(size, turn, str(picture.format), _mode(picture), lossy)


def load_image(path: str | Path, size: int | None = None, *, channels: int = 3, wide: bool = False) -> np.ndarray:
    """Read a picture, resize it bilinearly (Pillow's, which averages when it shrinks) and give it the wanted channels.

    Args:
        path: the file.
        size: side S of the square to resize to, in pixels; None keeps the picture's own height and width.
        channels: 1 (colours become luma) or 3 (grey is repeated).
        wide: 16 bits a value: 8-bit pictures are multiplied by 257; otherwise 16-bit pictures are rounded to 8 bits.

    Returns:
        Shape: (S, S, channels) or (H, W, channels), uint8 in 0..255, or uint16 in 0..65535 where `wide`.

    Raises:
        DataError: the file cannot be read as a picture.
    """
    path = Path(path)
    picture = _read(path)
    if picture.mode in _WIDE:
        values = np.asarray(picture).astype(np.uint16)
    elif image_header(path).wide:
        values = _deep_colours(path, picture)
    else:
        values = np.asarray(picture.convert("L") if picture.mode in ("1", "L") else _over_black(picture))
    return fit_image(values, size, channels=channels, wide=wide)


def fit_image(values: np.ndarray, size: int | None, *, channels: int, wide: bool) -> np.ndarray:
    """The same for an array: (H, W) or (H, W, 1 or 3), uint8 or uint16."""
    planes = values.shape[2] if values.ndim == 3 else 1
    values = values.reshape(*values.shape[:2], planes)
    if values.dtype == np.uint16:  # through 32-bit floats, which hold 16 bits exactly
        grey = values @ np.array([0.299, 0.587, 0.114], np.float32) if channels < planes else None
        layers = [grey] if grey is not None else [values[:, :, c].astype(np.float32) for c in range(planes)]
        if size is not None:
            layers = [_resized(Image.fromarray(layer), size) for layer in layers]
        values = np.clip(np.rint(np.dstack(layers)), 0, 65535).astype(np.uint16)
        if not wide:
            values = ((values.astype(np.uint32) + 128) // 257).astype(np.uint8)
    else:
        picture = Image.fromarray(values if planes == 3 else values[:, :, 0])
        picture = picture.convert("L") if channels < planes else picture
        values = np.array(picture) if size is None else _resized(picture, size)
        values = values.astype(np.uint16) * np.uint16(257) if wide else values
    values = values if values.ndim == 3 else values[:, :, None]
    return np.ascontiguousarray(np.broadcast_to(values, (*values.shape[:2], channels)))


def _resized(picture: Image.Image, size: int) -> np.ndarray:
    return np.array(picture.resize((size, size), Image.Resampling.BILINEAR))


class RawMask(NamedTuple):
    """A mask as its file has it.

    Attributes:
        values: (H, W) int32 in 0..65535; where `coloured`, red * 65536 + green * 256 + blue.
        palette: for a coloured palette, the colour of every value used; else None.
        coloured: whether `values` are colours.
    """

    values: np.ndarray
    palette: dict[int, Colour] | None = None
    coloured: bool = False


def read_mask(path: str | Path, *, coloured: bool = False) -> RawMask:
    """Read a mask's raw values.

    Grey and RGB-coded grey give the grey value (1-bit: 0 or 255). A palette of greys gives the grey value too, since
    such files number their entries arbitrarily; a palette with colours gives the index, the custom for class ids. RGB
    with colours gives the colours. Alpha is dropped.

    Args:
        path: the file.
        coloured: give colours whatever the file is, as a dataset needs in which some masks have colours.

    Raises:
        DataError: the file cannot be read.
    """
    path = Path(path)
    picture = _read(path)
    if picture.mode in _WIDE:
        if coloured:
            raise DataError(f"{path}: has 16 bits a value while other masks are coded by colours; save all in one way")
        return RawMask(np.asarray(picture).astype(np.int32))
    if image_header(path).wide and (_deep_colours(path, picture) % 257).any():
        raise DataError(f"{path}: has colours of 16 bits that 8 cannot hold; save the mask with 8 bits a value")
    if picture.mode in ("P", "PA") and not coloured:
        # "PA" holds (index, alpha) pairs
        index = np.asarray(picture) if picture.mode == "P" else np.asarray(picture)[:, :, 0]
        table = np.asarray(picture.getpalette("RGB"), np.uint8).reshape(-1, 3)
        used = np.unique(index)
        if used[-1] >= len(table):
            raise DataError(f"{path}: a pixel has palette number {used[-1]} of only {len(table)}; save the mask anew")
        if (table == table[:, :1]).all():
            return RawMask(table[:, 0][index].astype(np.int32))
        colours = {int(v): (int(table[v, 0]), int(table[v, 1]), int(table[v, 2])) for v in used}
        return RawMask(index.astype(np.int32), colours)
    if picture.mode in ("1", "L", "LA") and not coloured:
        return RawMask(np.asarray(picture.convert("L")).astype(np.int32))
    values = np.asarray(picture.convert("RGB")).astype(np.int32)
    if not coloured and (values == values[:, :, :1]).all():
        return RawMask(values[:, :, 0])
    return RawMask(values @ np.array([65536, 256, 1], np.int32), None, True)


def resize_mask(mask: np.ndarray, size: int | None) -> np.ndarray:
    """Nearest neighbour: (H, W) -> (size, size), uint8 or int32; None keeps its size."""
    if size is None or mask.shape == (size, size):
        return mask
    return np.array(Image.fromarray(mask).resize((size, size), Image.Resampling.NEAREST))


def _open(path: Path) -> Image.Image:
    try:
        picture = Image.open(path, formats=_FORMATS)
        pages = getattr(picture, "n_frames", 1) if picture.format == "TIFF" else 1
    except UnidentifiedImageError:
        what = "is empty" if path.stat().st_size == 0 else "cannot be read as PNG, JPEG, TIFF, GIF or BMP"
        raise DataError(f"{path}: {what}; save it anew as PNG or remove it") from None
    except Exception as error:  # Pillow raises many types on damaged files
        raise DataError(f"{path}: cannot be read ({_line(error)}); save it anew or remove it") from None
    if pages > 1:
        picture.close()
        raise DataError(f"{path}: holds {pages} pages; save each page as a file of its own")
    return picture


def _mode(picture: Image.Image) -> str:
    """As in `Header`; to be asked before the pixels are loaded."""
    tags = getattr(picture, "tag_v2", {})
    if picture.mode not in _WIDE and tags.get(284) == 2 and 16 in tags.get(258, ()):  # Pillow scrambles or cuts them
        return "planes;16"
    raw: Any = picture.tile[0].args if picture.tile else ""  # type: ignore[attr-defined]
    raw = raw if isinstance(raw, str) else str(raw[0]) if raw else ""
    return raw if picture.mode not in _WIDE and raw[-4:-1] == ";16" else picture.mode


def _read(path: Path, *, low_bytes: bool = False) -> Image.Image:
    """Decode fully, apply the EXIF orientation. Of 16-bit colours the high bytes, or the low ones."""
    with _open(path) as picture:
        turn = _orientation(path, picture)
        try:
            mode = _mode(picture)
            if picture.mode not in _WIDE and ";16" in mode and mode[:-1] not in _DEEP:
                raise DataError(f"16-bit colours are read as RGB or RGBA, pixel by pixel, not as {mode}")
            if low_bytes:
                for i, tile in enumerate(picture.tile):  # type: ignore[attr-defined]
                    other = mode[:-1] + _OTHER_ORDER[mode[-1]]
                    args = other if isinstance(tile.args, str) else (other, *tile.args[1:])
                    picture.tile[i] = tile._replace(args=args)  # type: ignore[attr-defined]
            picture.load()
            # 32 bits: floating point, or whole numbers beyond what is kept
            if picture.mode == "F" or (picture.mode == "I" and not _fits(picture)):
                raise DataError("32 bits a value; 8 and 16 are read")
            return picture if turn == 1 else ImageOps.exif_transpose(picture)
        except Exception as error:
            raise DataError(f"{path}: cannot be decoded ({_line(error)}); save it anew or remove it") from None


def _deep_colours(path: Path, high: Image.Image) -> np.ndarray:
    """A picture of 16-bit colours over black: (H, W, 3) uint16."""
    low = _read(path, low_bytes=True)
    values: np.ndarray = np.asarray(high) * np.uint16(256) + np.asarray(low)
    if values.shape[2] == 4:
        values = np.rint(values[:, :, :3] * (values[:, :, 3:] / 65535)).astype(np.uint16)
    return values


def _line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:160]


def _orientation(path: Path, picture: Image.Image) -> int:
    """To be asked before the pixels are loaded; a turned TIFF is refused."""
    # for a PNG without EXIF Pillow would decode all of it to look for a late EXIF chunk
    if picture.format == "PNG" and "exif" not in picture.info:
        return 1
    try:
        value: Any = picture.getexif().get(0x0112, 1)
    except Exception:  # a damaged EXIF block says nothing about the pixels
        return 1
    turn = value if isinstance(value, int) and 1 <= value <= 8 else 1
    if picture.format == "TIFF" and turn != 1:  # Pillow turns it while loading, and scrambles uncompressed ones
        raise DataError(
            f"{path}: is a TIFF with EXIF orientation {turn}, of which only 1 is read; save it anew, upright"
        )
    return turn


def _over_black(picture: Image.Image) -> Image.Image:
    """As RGB; where the picture has alpha, transparent pixels fade to black."""
    if "A" not in picture.getbands() and "transparency" not in picture.info:
        return picture.convert("RGB")
    black = Image.new("RGBA", picture.size, (0, 0, 0, 255))
    return Image.alpha_composite(black, picture.convert("RGBA")).convert("RGB")


def _fits(picture: Image.Image) -> bool:
    """Whether every value of a 32-bit picture is in 0..65535."""
    values = np.asarray(picture)
    return bool(values.min() >= 0 and values.max() <= 65535)
