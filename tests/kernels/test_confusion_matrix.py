"""Confusion counts against torch.bincount, exactly."""

import pytest
import torch
from helpers import DEVICE, DTYPES, pitched, randn

from tritonnet.kernels import fault
from tritonnet.kernels.confusion_matrix import confusion_matrix
from tritonnet.kernels.runtime import Refused

CASES = {  # pixels, classes
    "two-classes": ((2, 9, 7), 2),
    "odd": ((1, 19, 3), 5),
    "most-with-a-histogram": ((2, 17, 33), 22),
    "without-a-histogram": ((2, 17, 33), 23),
    "past-a-tile": ((1, 300, 301), 3),
    "empty": ((0, 4, 4), 2),
}


def integers(shape: tuple[int, ...], high: int, dtype: torch.dtype, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, high, shape, generator=generator).to(dtype).to(DEVICE)


def expected(target: torch.Tensor, predicted: torch.Tensor, k: int, ignore: int) -> torch.Tensor:
    t, p = target.cpu().long().flatten(), predicted.cpu().long().flatten()
    kept = t != ignore
    return torch.bincount(t[kept] * k + p[kept], minlength=k * k).view(k, k)


@pytest.mark.parametrize("kind", [torch.int64, torch.int32, torch.uint8], ids=str)
@pytest.mark.parametrize("case", CASES)
def test_counts_of_indices(case: str, kind: torch.dtype) -> None:
    shape, k = CASES[case]
    predicted, target = integers(shape, k, kind, 0), integers(shape, k, kind, 1)
    target.view(-1)[::3] = 100
    counts = torch.zeros((k, k), dtype=torch.int64, device=DEVICE)
    for _ in range(2):  # adds to what is there
        assert confusion_matrix(predicted, target, counts, ignore_index=100) is counts
    assert torch.equal(counts.cpu(), 2 * expected(target, predicted, k, 100))
    assert int(fault.flag()) == 0


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", CASES)
def test_counts_of_logits(case: str, dtype: torch.dtype) -> None:
    shape, k = CASES[case]
    x = pitched(randn(*shape, k).to(dtype))
    target = integers(shape, k, torch.uint8, 1)
    counts = confusion_matrix(x, target, torch.zeros((k, k), dtype=torch.int64, device=DEVICE))
    assert torch.equal(counts.cpu(), expected(target, x.argmax(-1), k, -100))


def test_one_logit_above_zero_is_class_one() -> None:
    x = pitched(randn(2, 5, 7, 1))
    x[0, 0, 0, 0] = 0.0
    target = integers((2, 5, 7), 2, torch.uint8, 1)
    counts = confusion_matrix(x, target, torch.zeros((2, 2), dtype=torch.int64, device=DEVICE))
    assert torch.equal(counts.cpu(), expected(target, (x[..., 0] > 0), 2, -100))


def test_index_outside_is_a_fault_and_does_not_count() -> None:
    for k in (3, 30):
        for bad in ((1, k), (k, 1), (-1, 0), (0, -1)):
            fault.flag().zero_()
            predicted = torch.tensor([[[0, bad[0]]]], device=DEVICE)
            target = torch.tensor([[[2, bad[1]]]], device=DEVICE)
            counts = confusion_matrix(predicted, target, torch.zeros((k, k), dtype=torch.int64, device=DEVICE))
            assert int(counts.sum()) == int(counts[2, 0]) == 1
            assert int(fault.flag()) == fault.LABEL.value


def test_refuses() -> None:
    p, t = integers((2, 3, 4), 2, torch.uint8, 0), integers((2, 3, 4), 2, torch.uint8, 1)
    counts = torch.zeros((2, 2), dtype=torch.int64, device=DEVICE)
    refusals = {
        r"counts must have shape \(K, K\)": (p, t, counts[:1]),
        "counts must be int64": (p, t, counts.int()),
        r"target must have shape \(2, 3, 4\)": (p, t[:1], counts),
        "prediction must have 2 channels for 2 classes": (randn(2, 3, 4, 3), t, counts),
        "target must be int64 or int32 or uint8": (p, randn(2, 3, 4), counts),
        "prediction must be int64 or int32 or uint8": (p.to(torch.int8), t, counts),
    }
    for message, arguments in refusals.items():
        with pytest.raises(Refused, match=message):
            confusion_matrix(*arguments)
