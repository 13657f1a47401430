"""From the raw values in mask files to classes 0..K-1 and IGNORE, inferred over all masks of a dataset.

The rules, tried in this order on the set of values that occur anywhere:

1. one value only: refused, there is nothing to learn
2. JPEG masks: rule 6 alone applies, since their values are blurred
3. two values: the smaller is class 0, the larger class 1 (0/255, 0/1, 1/2, 0/65535, ...)
4. all below 64: class numbers as they are, K = largest + 1; with 0..k complete, k >= 1, a further 255 is IGNORE,
   unless it has a hundred times the pixels of 1..k (those are strays then)
5. at most 32 values at least 8 apart: grey levels, numbered in rising order (0/128/255 -> 0, 1, 2)
6. at most 255, and below 64 or from 192 in 95 % of all pixels and 80 % of every mask's: two classes smeared by
   anti-aliasing or JPEG, cut at 128
7. anything else: refused, with what was found

Where masks hold colours, each of at most 64 colours at least 8 apart in some channel is a class: black, or without it
the most frequent colour, is class 0, the others follow in the order of red, green, blue.
"""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import combinations, pairwise
from typing import Any

import numpy as np

from tritonnet.data.image import DataError

__all__ = [
    "IGNORE", "MaskMapping", "default_names", "default_palette", "infer_colours", "infer_mapping", "percent", "rgb",
]  # fmt: skip

IGNORE = 255  # the class of pixels that neither train nor count

# Black, then colours that stay apart on a screen and in print (Okabe and Ito, "Color Universal Design"), but first a cyan
# in place of their sky blue: it is bright on dark images, and no stain of tissue (brown, orange, pink, violet) has its hue.
_COLOURS = (
    (0, 0, 0), (0, 210, 255), (230, 159, 0), (0, 158, 115), (240, 228, 66), (0, 114, 178), (213, 94, 0),
    (204, 121, 167),
)  # fmt: skip


def default_names(num_classes: int) -> tuple[str, ...]:
    """One name a class: background and foreground, or numbers."""
    return ("background", "foreground") if num_classes == 2 else tuple(f"class {c}" for c in range(num_classes))


def default_palette(num_classes: int) -> tuple[tuple[int, int, int], ...]:
    """One (red, green, blue) in 0..255 a class; class 0 is black. Beyond eight classes come darker copies."""
    palette = []
    for c in range(num_classes):
        turn, position = divmod(c, len(_COLOURS))
        red, green, blue = _COLOURS[position] if position or not turn else (255, 255, 255)
        palette.append((red * 2**turn // 3**turn, green * 2**turn // 3**turn, blue * 2**turn // 3**turn))
    return tuple(palette)


def rgb(code: int) -> tuple[int, int, int]:
    """The colour of red * 65536 + green * 256 + blue."""
    return code >> 16, code >> 8 & 255, code & 255


def percent(share: float) -> str:
    """0.1429 as "14 %", 0.00321 as "0.32 %"."""
    return f"{100 * share:.0f} %" if share >= 0.0995 else f"{100 * share:.2g} %"


@dataclass(frozen=True)
class MaskMapping:
    """Raw mask value -> class.

    Attributes:
        rule: "values" (each raw value has its class, others are an error), "colours" (the same for colours), or
            "threshold" (below 128 class 0, from 128 class 1).
        num_classes: K; classes are 0..K-1, and IGNORE.
        values: {raw value in 0..65535, or colour as red * 65536 + green * 256 + blue: class in 0..K-1 or IGNORE};
            empty for "threshold".
    """

    rule: str
    num_classes: int
    values: Mapping[int, int]

    def show(self, value: int) -> str:
        """A raw value for a reader: a number, or a colour as (red, green, blue)."""
        return str(rgb(value)) if self.rule == "colours" else str(value)

    def describe(self, counts: Mapping[int, int], class_names: Sequence[str], palette: bool = False) -> str:
        """What masks with these pixels of each raw value are taken for, in one sentence; `palette`: they have one."""
        total = sum(counts.values())
        if self.rule == "threshold":
            share = sum(n for value, n in counts.items() if value >= 128) / total
            return (
                f"Masks hold {len(counts)} values, smeared as by JPEG or anti-aliasing; those from 128 on are taken as "
                f"class 1 ({class_names[1]}): {percent(share)} of the pixels"
            )
        dark = ", nearly black in a viewer" if self.rule == "values" and max(counts) < 32 and not palette else ""
        *first, last = [self.show(v) for v in sorted(counts)]
        held = f"{_some(first)} and {last}" if first else last
        numbers = self.num_classes > 2 and all(c in (value, IGNORE) for value, c in self.values.items())
        parts = []
        for value, c in sorted(self.values.items(), key=lambda pair: pair[1]):
            if value not in counts or (c == 0 and self.num_classes == 2 and len(counts) > 1):
                continue
            name = f" ({class_names[c]})" if c < len(class_names) and class_names[c] != f"class {c}" else ""
            taken = (
                f"{self.show(value)} is ignored" if c == IGNORE else f"{self.show(value)} is taken as class {c}{name}"
            )
            parts.append(f"{f'class {c}' if numbers and c != IGNORE else taken}: {percent(counts[value] / total)}")
        meaning = "they are the class numbers; " if numbers else ""
        return f"Masks hold {held}{dark}; {meaning}{'; '.join(parts[:8])}{'; ...' if parts[8:] else ' of the pixels'}"

    def apply(self, raw: np.ndarray, name: str) -> np.ndarray:
        """Classes of a mask.

        Args:
            raw: (H, W) integers, in 0..65535 or colours.
            name: the file, for the error.

        Returns:
            (H, W) uint8: 0..K-1 or IGNORE.

        Raises:
            DataError: a value that is no class.
        """
        if self.rule == "threshold":
            return (raw >= 128).astype(np.uint8)
        known, classes = np.array(sorted(self.values.items())).T
        at = np.searchsorted(known, raw).clip(max=len(known) - 1)
        strange = raw[known[at] != raw]
        if strange.size:
            strangers = _some([self.show(v) for v in np.unique(strange).tolist()])
            expected = _some([self.show(v) for v in known.tolist()])
            raise DataError(
                f"{name}: mask value {strangers} is no class (classes come from the values {expected}); "
                "correct the mask, or train anew with it so that the mapping is inferred again"
            )
        mask: np.ndarray = classes.astype(np.uint8)[at]
        return mask

    def to_json(self) -> dict[str, Any]:
        """For a model file."""
        return {"rule": self.rule, "classes": self.num_classes, "values": {str(v): c for v, c in self.values.items()}}

    @staticmethod
    def from_json(stored: Mapping[str, Any]) -> "MaskMapping":
        """The inverse of `to_json`.

        Raises:
            DataError: not such a record.
        """
        with suppress(KeyError, TypeError, ValueError, AttributeError):
            values = {int(v): int(c) for v, c in stored["values"].items()}
            mapping = MaskMapping(str(stored["rule"]), int(stored["classes"]), values)
            most = {"values": 0xFFFF, "colours": 0xFFFFFF, "threshold": -1}[mapping.rule]
            known = all(0 <= v <= most and (c in range(mapping.num_classes) or c == IGNORE) for v, c in values.items())
            if known and (mapping.num_classes == 2 or values):
                return mapping
        raise DataError(f"not a mask mapping: {str(stored)[:80]}")


def infer_mapping(
    counts: Mapping[int, int], where: Mapping[int, str], lossy: bool, greyest: tuple[float, str], folder: str
) -> MaskMapping:
    """The mapping for masks with these values, by the rules above.

    Args:
        counts: pixels of each raw value that occurs, over all masks.
        where: for each of them, a file it occurs in.
        lossy: whether any mask is a JPEG.
        greyest: the mask with the largest share of its pixels in 64..191: that share (0..1), and the file.
        folder: named in errors.

    Raises:
        DataError: no rule fits.
    """
    values = sorted(counts)
    if len(values) == 1:
        raise DataError(f"{folder}: every pixel of every mask is {values[0]}: nothing to learn; check the masks")
    if not lossy:
        if len(values) == 2:
            return MaskMapping("values", 2, {values[0]: 0, values[1]: 1})
        ids = values[:-1] if values[-1] == IGNORE else values
        strays = len(ids) < len(values) and sum(counts[v] for v in ids if v) * 100 < counts[IGNORE]
        if ids[-1] < 64 and not strays and (len(ids) == len(values) or ids == list(range(len(ids)))):
            ignored = {IGNORE: IGNORE} if len(ids) < len(values) else {}
            return MaskMapping("values", ids[-1] + 1, {v: v for v in range(ids[-1] + 1)} | ignored)
        if len(values) <= 32 and min(b - a for a, b in pairwise(values)) >= 8:
            return MaskMapping("values", len(values), {v: c for c, v in enumerate(values)})
    middle = sum(counts[v] for v in values if 64 <= v < 192)
    if values[0] < 64 and 192 <= values[-1] <= 255 and middle <= 0.05 * sum(counts.values()) and greyest[0] <= 0.2:
        return MaskMapping("threshold", 2, {})
    odd = next((v for v in values if 0 < v < 255), values[-1])
    file = greyest[1] if greyest[0] > 0.2 else where[odd]
    raise DataError(
        f"{folder}: the masks hold {len(values)} different values ({_some(values)}; look at {file}), which are "
        "neither 0/255 nor class numbers below 64 (is it a picture, or numbers of objects?); save one grey value a class, "
        "such as 0, 1, 2, ..."
    )


def infer_colours(counts: Mapping[int, int], where: Mapping[int, str], lossy: bool, folder: str) -> MaskMapping:
    """The mapping for masks with these colours; arguments as above.

    Raises:
        DataError: too many colours, or too close, as JPEG, smooth edges or a photograph have them.
    """
    background = 0 if 0 in counts else max(counts, key=lambda code: (counts[code], -code))
    codes = [background, *sorted(set(counts) - {background})]
    close = len(codes) > 64 or any(
        max(abs(a - b) for a, b in zip(rgb(one), rgb(two), strict=True)) < 8 for one, two in combinations(codes, 2)
    )
    if lossy or close:
        rare = min(counts, key=lambda code: (counts[code], code))
        raise DataError(
            f"{folder}: the masks hold {len(codes)} different colours (such as {rgb(rare)} in {where[rare]}), too many or "
            "too alike for classes; save them as PNG, without smooth edges, one colour a class"
        )
    if len(codes) < 2:
        raise DataError(f"{folder}: every pixel of every mask is {rgb(codes[0])}: nothing to learn; check the masks")
    return MaskMapping("colours", len(codes), {code: c for c, code in enumerate(codes)})


def _some(values: Sequence[object]) -> str:
    """The first few of a list of values."""
    return ", ".join(map(str, values[:6])) + (", ..." if len(values) > 6 else "")
