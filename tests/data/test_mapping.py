"""The rules from raw mask values to classes, one case each."""

import json

import numpy as np
import pytest

from tritonnet.data import IGNORE, DataError, MaskMapping, default_palette
from tritonnet.data.mapping import default_names, infer_mapping


def infer(pixels: dict[int, int], lossy: bool = False, grey: float = 0.1) -> MaskMapping:
    return infer_mapping(pixels, dict.fromkeys(pixels, "some.png"), lossy, (grey, "grey.png"), "masks")


def even(*values: int) -> dict[int, int]:
    return dict.fromkeys(values, 100)


SMEARED = even(*range(256)) | {0: 1_000_000, 255: 1_000_000}
CASES = {
    "black-white": (even(0, 255), 2, {0: 0, 255: 1}),
    "zero-one": (even(0, 1), 2, {0: 0, 1: 1}),
    "one-two": (even(1, 2), 2, {1: 0, 2: 1}),
    "deep": (even(0, 65535), 2, {0: 0, 65535: 1}),
    "ids": (even(0, 1, 2, 3), 4, {0: 0, 1: 1, 2: 2, 3: 3}),
    "ids-with-gap": (even(0, 2, 5), 6, {c: c for c in range(6)}),
    "ids-with-ignore": (even(0, 1, 2, 255), 3, {0: 0, 1: 1, 2: 2, 255: IGNORE}),
    "grey-levels": (even(0, 128, 255), 3, {0: 0, 128: 1, 255: 2}),
    "four-levels": (even(0, 85, 170, 255), 4, {0: 0, 85: 1, 170: 2, 255: 3}),
    "anti-aliased": (SMEARED, 2, {}),
    "stray": ({0: 900, 1: 3, 254: 2, 255: 500}, 2, {}),
}


@pytest.mark.parametrize("case", CASES)
def test_inference(case: str) -> None:
    pixels, num_classes, values = CASES[case]
    mapping = infer(pixels)
    assert mapping.num_classes == num_classes
    assert dict(mapping.values) == values
    assert mapping.rule == ("values" if values else "threshold")
    assert MaskMapping.from_json(json.loads(json.dumps(mapping.to_json()))) == mapping
    assert "\n" not in mapping.describe(pixels, default_names(num_classes))


def test_jpeg_masks_are_cut_at_128() -> None:
    mapping = infer({0: 500, 3: 20, 252: 20, 255: 500}, lossy=True)
    assert mapping.apply(np.array([[0, 127, 128, 255]]), "a").tolist() == [[0, 0, 1, 1]]


def test_apply_gives_classes_and_ignore() -> None:
    mapping = MaskMapping("values", 2, {1: 1, 2: 0, 3: IGNORE})
    assert mapping.apply(np.array([[1, 2, 3]]), "a").tolist() == [[1, 0, 255]]


def test_refuses() -> None:
    with pytest.raises(DataError, match=r"bad\.png: mask value 7, 9 is no class .*0, 255"):
        MaskMapping("values", 2, {0: 0, 255: 1}).apply(np.array([[0, 7, 9]]), "bad.png")
    with pytest.raises(DataError, match="every pixel of every mask is 0"):
        infer(even(0))
    with pytest.raises(DataError, match=r"256 different values .* look at some\.png"):
        infer(even(*range(256)))
    with pytest.raises(DataError, match=r"look at grey\.png"):
        infer(SMEARED, grey=0.5)  # a photograph among the masks
    with pytest.raises(DataError, match="different values"):
        infer(even(*range(200)))  # instance numbers
    for stored in ({}, {"rule": "values", "classes": 2, "values": {"0": 2}}, {"rule": "x", "classes": 2, "values": {}}):
        with pytest.raises(DataError, match="not a mask mapping"):
            MaskMapping.from_json(stored)


def test_palette_colours_differ() -> None:
    palette = default_palette(24)
    assert palette[0] == (0, 0, 0)
    assert len(set(palette)) == 24
