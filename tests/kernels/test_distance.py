"""The distance transform, bit for bit against every pixel's distance to every pixel of the class."""

import numpy as np
import pytest
import torch
from helpers import DEVICE
from hypothesis import given, settings
from hypothesis import strategies as st

import tritonnet as tn
from tritonnet.kernels.distance import distance_fwd
from tritonnet.kernels.runtime import Refused
from tritonnet.ops import distance_transform


def brute_force(mask: np.ndarray, label: int, ignore: int) -> np.ndarray:
    """(N, H, W) of squared distances in whole numbers; infinity without the class."""
    n, h, w = mask.shape
    y, x = np.mgrid[:h, :w]
    squared = (y.reshape(-1, 1) - y.ravel()) ** 2 + (x.reshape(-1, 1) - x.ravel()) ** 2
    inside = ((mask == label) & (mask != ignore)).reshape(n, 1, -1)
    return np.where(inside, squared, np.inf).min(2).reshape(n, h, w)


def check(mask: np.ndarray, first: int, count: int, ignore: int) -> None:
    y = distance_fwd(torch.from_numpy(mask).to(DEVICE), first, count, ignore).cpu().numpy()
    assert y.shape == (*mask.shape, count)
    assert y.dtype == np.float32
    for k in range(count):
        assert np.array_equal(y[..., k].astype(np.float64), brute_force(mask, first + k, ignore))


@settings(deadline=None, derandomize=True, max_examples=100)
@given(
    st.integers(1, 19), st.integers(1, 19), st.sampled_from([0.0, 0.003, 0.02, 0.1, 0.5, 1.0]), st.integers(0, 2**32 - 1),
    st.sampled_from([np.uint8, np.int32, np.int64]),
)  # fmt: skip
def test_random_masks(h: int, w: int, density: float, seed: int, kind: type) -> None:
    """Twenty masks an example, 2000 in all; of classes 1 and 2, 255 ignored, many without a pixel or full of them."""
    random = np.random.default_rng(seed)
    mask = np.where(random.random((20, h, w)) < density, random.integers(1, 3, (20, h, w)), 0)
    mask[random.random(mask.shape) < 0.05] = 255
    check(mask.astype(kind), 1, 2, 255)


def test_empty_and_full_masks() -> None:
    check(np.zeros((2, 5, 7), np.uint8), 1, 1, 255)
    check(np.ones((2, 5, 7), np.uint8), 1, 1, 255)
    check(np.full((2, 5, 7), 255, np.uint8), 1, 1, 255)
    assert np.isinf(distance_fwd(torch.zeros((1, 3, 4), dtype=torch.uint8, device=DEVICE)).cpu().numpy()).all()


def test_ignored_pixel_of_the_class_is_not_the_nearest() -> None:
    mask = np.zeros((1, 1, 6), np.int64)
    mask[0, 0, 0], mask[0, 0, 5] = 1, 2
    assert np.isinf(distance_fwd(torch.from_numpy(mask).to(DEVICE), 1, 1, 1).cpu().numpy()).all()
    check(mask, 1, 2, 1)


def test_past_a_tile_and_one_image_wider_than_high() -> None:
    mask = np.zeros((1, 3, 520), np.uint8)
    mask[0, 2, 519] = mask[0, 0, 4] = 1
    check(mask, 1, 1, 255)


@pytest.mark.gpu
def test_distances_above_4095_are_exact_up_to_2_to_the_24() -> None:
    mask = np.zeros((1, 1, 4097), np.uint8)
    mask[0, 0, 0] = 1
    y = distance_fwd(torch.from_numpy(mask).to(DEVICE)).cpu().numpy()[0, 0, :, 0]
    assert np.array_equal(y.astype(np.float64), np.arange(4097.0) ** 2)


def test_a_label_beyond_32_bits_is_another_class() -> None:
    mask = torch.tensor([[[2**32 + 1, 0, 1]]], device=DEVICE)
    assert distance_fwd(mask).view(-1).tolist() == [4.0, 1.0, 0.0]


def test_op_is_channels_of_classes() -> None:
    mask = torch.tensor([[[0, 1], [3, 2]]], device=DEVICE)
    y = distance_transform(tn.Tensor(mask), 1, 3)
    assert y.shape == (1, 3, 2, 2)
    assert y.numpy()[0].tolist() == [[[1, 0], [2, 1]], [[2, 1], [1, 0]], [[1, 2], [0, 1]]]
    assert distance_transform(tn.Tensor(mask[:0])).shape == (0, 1, 2, 2)


def test_same_bits_every_time() -> None:
    mask = (torch.rand((2, 33, 65), generator=torch.Generator().manual_seed(0)) < 0.02).to(torch.uint8).to(DEVICE)
    assert torch.equal(distance_fwd(mask), distance_fwd(mask))


REFUSED = {
    "dtype": (
        lambda: distance_fwd(torch.zeros((1, 2, 2), device=DEVICE)),
        "target must be int64 or int32 or uint8, got",
    ),
    "rank": (
        lambda: distance_fwd(torch.zeros((2, 2), dtype=torch.uint8, device=DEVICE)),
        r"must have shape \(N, H, W\)",
    ),
    "count": (
        lambda: distance_fwd(torch.zeros((1, 2, 2), dtype=torch.uint8, device=DEVICE), count=0),
        "count must be at least 1, got 0",
    ),
    "tensor": (lambda: distance_transform(torch.zeros(2)), "target must be a tritonnet Tensor"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refuses(name: str) -> None:
    call, message = REFUSED[name]
    with pytest.raises(Refused, match=message):
        call()
