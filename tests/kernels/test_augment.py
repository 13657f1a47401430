"""augment: against numpy in float64; then one test per sentence of the docstring."""

import numpy as np
import pytest
import torch
from helpers import DEVICE, EPS, assert_close

from tritonnet.kernels.augment import PARAMETERS, augment_fwd
from tritonnet.kernels.convert import image_input
from tritonnet.kernels.runtime import Refused

IDENTITY = (1, 0, 0, 0, 1, 0, 0, 1, 1, 0)


def numbers(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


def pictures(n, h, w, c, dtype=np.uint8):
    return (
        np.random.default_rng(1)
        .integers(0, np.iinfo(np.uint8 if dtype == np.uint8 else np.uint16).max, (n, h, w, c))
        .astype(dtype)
    )


def run(images, masks, parameters, grid=None, keys=None, mean=None, rstd=None, dtype=torch.float32):
    """On arrays; without normalisation unless given."""
    c = images.shape[3]
    send = lambda array, kind: None if array is None else torch.from_numpy(np.asarray(array, kind)).to(DEVICE)  # noqa: E731
    y, t = augment_fwd(
        send(images, images.dtype), send(masks, np.uint8), send(parameters, np.float32), send(grid, np.float32),
        send(keys, np.int64), send(np.zeros(c) if mean is None else mean, np.float32),
        send(np.ones(c) if rstd is None else rstd, np.float32), 1 / 255 if images.dtype == np.uint8 else 1 / 65535, dtype,
    )  # fmt: skip
    return y.cpu(), t.cpu()


def cubic(x):
    x = np.abs(x)
    return np.where(x < 1, 1.5 * x**3 - 2.5 * x**2 + 1, np.where(x < 2, -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2, 0))


def mirrored(u, side):
    period = max(2 * (side - 1), 1)
    u = u % period
    return np.clip(np.minimum(u, period - u), 0, side - 1)


def source(parameters, grid, h, w):
    """Where the pixels of one image come from, in float64: rows and columns (H, W)."""
    a, b = np.meshgrid(np.arange(h) - (h - 1) / 2, np.arange(w) - (w - 1) / 2, indexing="ij")
    row, column = (parameters[3 * i] * a + parameters[3 * i + 1] * b + parameters[3 * i + 2] for i in range(2))
    row, column = row + (h - 1) / 2, column + (w - 1) / 2
    if grid is not None:
        G = grid.shape[-1]
        padded = np.pad(grid, ((0, 0), (2, 2), (2, 2)), mode="edge")
        weights = [
            cubic(np.arange(side)[:, None] * (G - 1) / max(side - 1, 1) - np.arange(-2, G + 2)) for side in (h, w)
        ]
        shift = np.einsum("hi,wj,kij->khw", *weights, padded)
        row, column = row + shift[0], column + shift[1]
    return mirrored(row, h), mirrored(column, w)


def reference(images, masks, parameters, grid, scale):
    """y and t by numpy, and which pixels lie near the middle between two, where rounding decides the mask."""
    n, h, w, _ = images.shape
    y, t, unsure = np.empty(images.shape), np.empty(masks.shape, np.uint8), np.empty(masks.shape, bool)
    for i in range(n):
        p = parameters[i]
        row, column = source(p, None if grid is None else grid[i], h, w)
        top, left = np.floor(row).astype(int), np.floor(column).astype(int)
        bottom, right = np.minimum(top + 1, h - 1), np.minimum(left + 1, w - 1)
        down, across = (row - top)[..., None], (column - left)[..., None]
        x = images[i].astype(np.float64) * scale
        upper = x[top, left] * (1 - across) + x[top, right] * across
        lower = x[bottom, left] * (1 - across) + x[bottom, right] * across
        v = upper * (1 - down) + lower * down
        y[i] = np.clip((v - 0.5) * p[7] + 0.5 + p[6], 0, 1) ** p[8]
        t[i] = masks[i][np.floor(row + 0.5).astype(int), np.floor(column + 0.5).astype(int)]
        unsure[i] = np.minimum(np.abs(row % 1 - 0.5), np.abs(column % 1 - 0.5)) < 1e-4
    return y, t, unsure


def affine(degrees, zoom=1.0, down=0.0, right=0.0, colour=(0, 1, 1, 0)):
    cos, sin = zoom * np.cos(np.deg2rad(degrees)), zoom * np.sin(np.deg2rad(degrees))
    return (cos, -sin, down, sin, cos, right, *colour)


CASES = {  # H, W, C, parameters, whether the grid moves
    "rotated": (11, 13, 3, affine(25), False),
    "scaled-and-shifted": (16, 9, 1, affine(0, 1.3, 2.4, -1.7), False),
    "elastic": (17, 16, 3, IDENTITY, True),
    "far-outside": (7, 6, 2, affine(130, 4.0, 40.0, -33.0), True),
    "colour": (8, 8, 3, affine(10, colour=(0.1, 1.4, 0.7, 0)), False),
    "one-pixel": (1, 1, 3, affine(30), True),
    "one-row": (1, 9, 1, affine(0, 1.2), True),
}


@pytest.mark.parametrize("kind", [np.uint8, np.int32])
@pytest.mark.parametrize(("h", "w", "c", "parameters", "elastic"), CASES.values(), ids=CASES)
def test_against_float64(h, w, c, parameters, elastic, kind):
    images, masks = pictures(2, h, w, c, kind), pictures(2, h, w, 1)[..., 0]
    rows = np.array([parameters, IDENTITY], np.float32)
    grid = numbers(2, 2, 3, 3).astype(np.float32) * 3 if elastic else None
    y, t = run(images, masks, rows, grid)
    expected, labels, unsure = reference(
        images, masks, rows.astype(np.float64), grid, 1 / 255 if kind == np.uint8 else 1 / 65535
    )
    # a coordinate is right to a few 2^-23 of its size, and images here change by up to 1 from pixel to pixel
    assert np.abs(y.numpy() - expected).max() <= 2e-4
    assert np.array_equal(t.numpy()[~unsure], labels[~unsure])
    assert unsure.mean() < 0.1


@pytest.mark.parametrize("turns", range(4))
def test_quarter_turns_copy_pixels(turns):
    images, masks = pictures(1, 6, 6, 3), pictures(1, 6, 6, 1)[..., 0]
    cos, sin = ((1, 0), (0, 1), (-1, 0), (0, -1))[turns]
    y, t = run(images, masks, [(cos, -sin, 0, sin, cos, 0, 0, 1, 1, 0)])
    assert np.array_equal((y.numpy() * 255).round(), np.rot90(images, -turns, (1, 2)))
    assert np.array_equal(t.numpy(), np.rot90(masks, -turns, (1, 2)))


def test_nothing_changed_is_the_input_conversion():
    images, masks = pictures(2, 5, 7, 3), pictures(2, 5, 7, 1)[..., 0]
    mean, rstd = np.array([0.4, 0.5, 0.6]), np.array([3.0, 4.0, 5.0])
    y, t = run(images, masks, [IDENTITY] * 2, np.zeros((2, 2, 3, 3)), None, mean, rstd)
    expected = image_input(
        torch.from_numpy(images).to(DEVICE), *(torch.from_numpy(a.astype(np.float32)).to(DEVICE) for a in (mean, rstd)),
        1 / 255, torch.float32,
    )  # fmt: skip
    assert_close(y, expected.cpu().double(), 1e-6)
    assert np.array_equal(t.numpy(), masks)


def test_the_grids_displacements_are_met_at_its_points():
    images = np.repeat(np.arange(0, 250, 10, dtype=np.uint8)[None, :, None, None], 25, axis=2)  # rises by 10 a row
    grid = numbers(1, 2, 3, 3).astype(np.float32)
    y, _ = run(images, images[..., 0], [IDENTITY], grid)
    moved = y.numpy()[0, ::12, ::12, 0] * 25.5 - np.arange(0, 25, 12)[:, None]
    assert_close(torch.from_numpy(moved[1]), torch.from_numpy(grid[0, 0, 1].astype(np.float64)), 1e-4)  # the middle row


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_16_bit_results_are_rounded_at_the_end(dtype):
    images, masks = pictures(1, 9, 9, 3), pictures(1, 9, 9, 1)[..., 0]
    y, _ = run(images, masks, [affine(20)], dtype=dtype)
    exact, _ = run(images, masks, [affine(20)])
    assert_close(y, exact.double(), 2 * EPS[dtype])


def test_noise_is_normal_and_its_own_for_each_key():
    images, masks = np.full((3, 32, 32, 3), 128, np.uint8), np.zeros((3, 32, 32), np.uint8)
    rows = [(*IDENTITY[:9], 0.05)] * 3
    y, _ = run(images, masks, rows, None, [5, 2**40 + 5, 5])
    assert torch.equal(y[0], y[2])
    assert not torch.equal(y[0], y[1])
    noise = (y[:2].double() - 128 / 255) / 0.05
    values = noise.numel()
    assert abs(noise.mean()) < 5 / values**0.5
    assert abs((noise**2).mean() - 1) < 5 * (2 / values) ** 0.5
    for a, b in ((noise[0], noise[1]), (noise[..., 0], noise[..., 1]), (noise[:, 1:], noise[:, :-1])):
        assert abs((a * b).mean()) < 5 / a.numel() ** 0.5  # uncorrelated over keys, channels and rows


def test_no_image():
    y, t = run(pictures(0, 4, 4, 3), np.zeros((0, 4, 4)), np.zeros((0, PARAMETERS)))
    assert tuple(y.shape) == (0, 4, 4, 3)
    assert tuple(t.shape) == (0, 4, 4)


def test_refuses():
    images, masks, row = pictures(1, 4, 4, 3), np.zeros((1, 4, 4)), [IDENTITY]
    cases = {
        "masks must have the images'": lambda: run(images, np.zeros((1, 4, 5)), row),
        r"parameters must have shape \(1, 10\), got \(1, 9\)": lambda: run(images, masks, [IDENTITY[:9]]),
        r"grid must have shape \(1, 2, 3, 3\), got \(1, 1, 3, 3\)": lambda: run(
            images, masks, row, np.zeros((1, 1, 3, 3))
        ),
        r"keys must have shape \(1,\), got \(2,\)": lambda: run(images, masks, row, None, [1, 2]),
        "images must be uint8 or int32, got float32": lambda: run(images.astype(np.float32), masks, row),
        "dtype must be float32": lambda: run(images, masks, row, dtype=torch.int32),
    }
    for message, call in cases.items():
        with pytest.raises(Refused, match=message):
            call()
