"""Picture files as arrays: one place that opens them, for training, evaluation and prediction alike.

PNG, JPEG, GIF (first frame) and BMP, recognised by content, so a GIF named `.jpg` opens. The EXIF orientation is
applied. Transparent pixels are shown over black, as a viewer would, since the colours hidden under them are arbitrary.
A 16-bit grey PNG keeps its 16 bits; Pillow hands other 16-bit PNGs over as 8 bits.
"""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

__all__ = ["PICTURES", "DataError", "Header", "image_header", "list_images", "load_image", "read_mask", "resize_mask"]

PICTURES = (".png", ".jpg", ".jpeg", ".gif", ".bmp")
_FORMATS = ("PNG", "JPEG", "GIF", "BMP")
_CLUTTER = ("thumbs.db", "desktop.ini")  # what file managers leave behind
_ROTATES = (5, 6, 7, 8)  # EXIF orientations that exchange width and height
_WIDE = ("I;16", "I;16B", "I;16L", "I")  # older Pillow opens a 16-bit grey PNG as I


class DataError(ValueError):
    """Something is wrong with the user's files. One line: which file, what is wrong, what to do."""


def list_images(path: str | Path, *, others_allowed: bool = False) -> list[Path]:
    """The pictures to read: `path` itself if it is a file, else its pictures sorted by file name.

    A folder without files that has an `images` folder inside means that one. Hidden files are passed over.

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
    if not found and (path / "images").is_dir():
        return list_images(path / "images", others_allowed=others_allowed)
    if others_allowed:
        found = [file for file in found if file.suffix.lower() in PICTURES]
    if not found:
        raise DataError(f"{path}: the folder holds no picture; put PNG, JPEG, GIF or BMP files there")
    for file in found:
        if file.suffix.lower() not in PICTURES:
            raise DataError(f"{file}: not a {', '.join(PICTURES)} file; convert it to PNG or move it out of the folder")
    return found


def _is_clutter(path: Path) -> bool:
    return path.name.startswith(".") or path.name.lower() in _CLUTTER


class Header(NamedTuple):
    """From a file's first bytes: (width, height) once upright, 16 bits a value or not, EXIF orientation 1 to 8."""

    size: tuple[int, int]
    wide: bool
    orientation: int
    jpeg: bool


def image_header(path: Path) -> Header:
    """Read no pixels.

    Raises:
        DataError: not a picture.
    """
    with _open(path) as picture:
        turn = _orientation(picture)
        size = picture.size[::-1] if turn in _ROTATES else picture.size
        return Header(size, picture.mode in _WIDE, turn, picture.format in ("JPEG", "MPO"))


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
    picture = _read(Path(path))
    if picture.mode in _WIDE:
        values = _wide_values(picture, size)
        values = values if wide else ((values.astype(np.uint32) + 128) // 257).astype(np.uint8)
        return np.ascontiguousarray(np.repeat(values[:, :, None], channels, axis=2))
    grey = picture.mode in ("1", "L")
    picture = picture.convert("L") if grey else _over_black(picture)
    if channels == 1 and not grey:
        picture = picture.convert("L")
    if size is not None and picture.size != (size, size):
        picture = picture.resize((size, size), Image.Resampling.BILINEAR)
    values = np.asarray(picture)
    if values.ndim == 2:
        values = np.repeat(values[:, :, None], channels, axis=2)
    return values.astype(np.uint16) * np.uint16(257) if wide else np.array(values)


def read_mask(path: str | Path) -> tuple[np.ndarray, dict[int, tuple[int, int, int]] | None]:
    """Read a mask's raw values and, for a coloured palette, the colour of every value used.

    Grey and RGB-coded grey give the grey value (1-bit: 0 or 255). A palette of greys gives the grey value too, since
    such files number their entries arbitrarily; a palette with colours gives the index, the custom for class ids. Alpha
    is dropped.

    Returns:
        ((H, W) int32 in 0..65535, {value: (r, g, b)} or None).

    Raises:
        DataError: the file cannot be read, or it is coded by colours.
    """
    path = Path(path)
    picture = _read(path)
    if picture.mode in _WIDE:
        return np.asarray(picture).astype(np.int32), None
    if picture.mode in ("P", "PA"):
        # "PA" holds (index, alpha) pairs
        index = np.asarray(picture) if picture.mode == "P" else np.asarray(picture)[:, :, 0]
        table = np.asarray(picture.getpalette("RGB"), np.uint8).reshape(-1, 3)
        used = np.unique(index)
        if used[-1] >= len(table):
            raise DataError(f"{path}: a pixel has palette number {used[-1]} of only {len(table)}; save the mask anew")
        if (table == table[:, :1]).all():
            return table[:, 0][index].astype(np.int32), None
        return index.astype(np.int32), {int(v): (int(table[v, 0]), int(table[v, 1]), int(table[v, 2])) for v in used}
    if picture.mode in ("1", "L", "LA"):
        return np.asarray(picture.convert("L")).astype(np.int32), None
    values = np.asarray(picture.convert("RGB"))
    coloured = (values != values[:, :, :1]).any(axis=2)
    if coloured.any():
        red, green, blue = values[coloured][0]
        raise DataError(
            f"{path}: the mask is coded by colours, for example ({red}, {green}, {blue}); "
            "save class numbers 0, 1, 2, ... as a grey or palette PNG"
        )
    return values[:, :, 0].astype(np.int32), None


def resize_mask(mask: np.ndarray, size: int) -> np.ndarray:
    """Nearest neighbour: (H, W) uint8 -> (size, size) uint8."""
    if mask.shape == (size, size):
        return mask
    return np.array(Image.fromarray(mask).resize((size, size), Image.Resampling.NEAREST))


def _open(path: Path) -> Image.Image:
    try:
        return Image.open(path, formats=_FORMATS)
    except UnidentifiedImageError:
        raise DataError(f"{path}: cannot be read as PNG, JPEG, GIF or BMP; save it anew as PNG or remove it") from None
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise DataError(f"{path}: cannot be read ({error}); save it anew or remove it") from None


def _read(path: Path) -> Image.Image:
    """Decode fully, apply the EXIF orientation."""
    with _open(path) as picture:
        try:
            turn = _orientation(picture)
            picture.load()
            return picture if turn == 1 else ImageOps.exif_transpose(picture)
        except (OSError, ValueError, SyntaxError, EOFError, IndexError, Image.DecompressionBombError) as error:
            raise DataError(f"{path}: cannot be decoded ({error}); save it anew or remove it") from None


def _orientation(picture: Image.Image) -> int:
    """To be asked before the pixels are loaded."""
    # for a PNG without EXIF Pillow would decode all of it to look for a late EXIF chunk
    if picture.format == "PNG" and "exif" not in picture.info:
        return 1
    try:
        value: Any = picture.getexif().get(0x0112, 1)
    except Exception:  # a damaged EXIF block says nothing about the pixels
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _over_black(picture: Image.Image) -> Image.Image:
    """As RGB; where the picture has alpha, transparent pixels fade to black."""
    if "A" not in picture.getbands() and "transparency" not in picture.info:
        return picture.convert("RGB")
    black = Image.new("RGBA", picture.size, (0, 0, 0, 255))
    return Image.alpha_composite(black, picture.convert("RGBA")).convert("RGB")


def _wide_values(picture: Image.Image, size: int | None) -> np.ndarray:
    """(H, W) uint16 of a 16-bit grey picture; resized through 32-bit floats, which hold 16 bits exactly."""
    values = np.asarray(picture).astype(np.float32)
    if size is not None and picture.size != (size, size):
        values = np.asarray(Image.fromarray(values).resize((size, size), Image.Resampling.BILINEAR))
    return np.clip(np.rint(values), 0, 65535).astype(np.uint16)
