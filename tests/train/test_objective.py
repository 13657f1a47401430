"""How a loss and class weights are written, and that the objective is their weighted sum."""

import numpy as np
import pytest
import torch
from helpers import assert_close, randn, to64
from losscheck import labels
from pictures import write_folder

import tritonnet as tn
from tritonnet.data import IGNORE, Cells, class_weights, open_dataset
from tritonnet.kernels.runtime import Refused
from tritonnet.nn import functional as F
from tritonnet.train.objective import Objective, parse_loss, parse_weights

WRITTEN = {
    "ce": [(1.0, "ce", {})],
    "ce + dice": [(1.0, "ce", {}), (1.0, "dice", {})],
    "0.5*ce+ 5e-1 *dice( batch = 1 )": [(0.5, "ce", {}), (0.5, "dice", {"batch": 1.0})],
    "distance(sigma=1e+1, beta=3) + 2*focal()": [(1.0, "distance", {"sigma": 10.0, "beta": 3.0}), (2.0, "focal", {})],
}


@pytest.mark.parametrize("text", WRITTEN)
def test_reads(text: str) -> None:
    assert parse_loss(text) == WRITTEN[text]


BAD = {
    "": 'must be a sum such as "ce \\+ dice" or "0.5\\*ce \\+ distance\\(sigma=10\\)", got \'\'',
    "ce - dice": "must be a sum",
    "ce + ": "must be a sum",
    "-1*ce": "must be a sum",
    "ce dice": "must be a sum",
    "__import__('os')": "each term must be one of",
    "iou": "each term must be one of ce, focal, dice, distance, got 'iou'",
    "focal(sigma=1)": r"arguments of focal must be among \(gamma, alpha\), got 'sigma'",
    "ce(2)": r"arguments of ce must be among \(\), got '2'",
    "distance(sigma=ten)": "factor and arguments must be numbers, got 'distance\\(sigma=ten\\)'",
    "1.2.3*ce": "factor and arguments must be numbers",
}


@pytest.mark.parametrize("text", BAD)
def test_refuses_another_loss(text: str) -> None:
    with pytest.raises(Refused, match=BAD[text]):
        parse_loss(text)


@pytest.mark.parametrize("text", ["1,", "one", "1,-2", "0,1", "nan,1", "1;2"])
def test_refuses_other_weights(text: str) -> None:
    with pytest.raises(Refused, match="must be auto, or numbers above 0 such as 1,5, one a class"):
        parse_weights(text)


def test_refuses_before_the_first_step() -> None:
    for arguments, message in (
        ((2, "distance(sigma=0)"), "sigma must be above 0"),
        ((2, "focal(alpha=2)"), "alpha must be from 0 to 1, got 2"),
        ((1, "dice(smooth_nr=-1)"), "smooth_nr must be at least 0"),
        ((3, "ce", "1,2"), "must be 3 numbers, one a class, got 2"),
    ):
        with pytest.raises(Refused, match=message):
            Objective(*arguments)


@pytest.mark.parametrize("outputs", [1, 2, 3])
def test_is_the_weighted_sum(outputs: int) -> None:
    k = max(outputs, 2)
    x, target = tn.from_torch(randn(2, outputs, 6, 5)), labels((2, 6, 5), k, torch.uint8, 7)
    assert int(target.max()) == IGNORE
    t, w = tn.Tensor(target), tn.tensor([1.0, 2.5, 0.5][:k])
    weighted = {"weight": w, "ignore_index": IGNORE}
    parts = {
        "ce": F.focal_loss(x, t, gamma=0.0, **weighted) if outputs == 1 else F.cross_entropy(x, t, **weighted),
        "0.5*distance(sigma=3)": 0.5 * F.distance_loss(x, t, sigma=3.0, **weighted),
        "2*dice(batch=1)": 2 * F.dice_loss(x, t, batch=True, ignore_index=IGNORE),
        "focal(gamma=1,alpha=0.3)": F.focal_loss(x, t, gamma=1.0, alpha=0.3, **weighted),
    }
    objective = Objective(outputs, " + ".join(parts), ",".join(["1", "2.5", "0.5"][:k]))
    expected = sum(to64(part.torch()) for part in parts.values())
    assert_close(objective.loss(x, t).torch(), expected, 1e-6)
    assert_close(Objective(outputs).loss(x, t).torch(), plain(x, t, outputs), 1e-6)


def plain(x: tn.Tensor, t: tn.Tensor, outputs: int) -> torch.Tensor:
    f = F.cross_entropy if outputs > 1 else F.binary_cross_entropy_with_logits
    return f(x, t, ignore_index=IGNORE).torch()


def test_class_weights_of_the_data(tmp_path) -> None:
    cells = Cells(3, 16, seed=1, val="none")
    counts = np.bincount(np.concatenate([cells.sample(i)[1].ravel() for i in (0, 2)]), minlength=2)
    assert class_weights(cells, (0, 2)) == tuple(float(f"{counts.sum() / (2 * n):.6g}") for n in counts)
    assert sum(w * n for w, n in zip(class_weights(cells, (0, 2)), counts, strict=True)) == pytest.approx(
        counts.sum(), 1e-5
    )
    data = open_dataset(write_folder(tmp_path / "data"), 16)
    assert len(class_weights(data)) == 2
    empty = Cells(1, 16, seed=1, val="none")
    empty._kept[0] = (empty.sample(0)[0], np.full((16, 16), IGNORE, np.uint8))
    assert class_weights(empty) == (1.0, 1.0)
