"""A captured step: the same bits as the eager one, also while the learning rate changes and batches change their size.

The second size is due for recording right after the first, when no host memory is left for its tables: one more eager step.
"""

import pytest
import torch
from helpers import DEVICE, randn

import tritonnet as tn
from tritonnet.nn.utils import clip_grad_norm_
from tritonnet.ops.random import get_state
from tritonnet.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from tritonnet.train.graph import CapturedStep


def weights(captured: bool) -> list[torch.Tensor]:
    """The random numbers' position, the parameters and their averages after some steps of two batch sizes.

    With dropout (a mask a step), clipping and a falling learning rate.
    """
    tn.manual_seed(3)
    model = tn.models.UNet(3, 2, base_channels=16 if DEVICE.type == "cuda" else 4, depth=1, dropout=0.3)
    optimizer = tn.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    averaged = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.5), use_buffers=True)

    def step(images: torch.Tensor, masks: torch.Tensor) -> tn.Tensor:
        loss = tn.nn.functional.cross_entropy(model(tn.Tensor(images)), tn.Tensor(masks))
        loss.backward()
        clip_grad_norm_(model.parameters(), 0.5)
        optimizer.step()
        averaged.update_parameters(model)
        optimizer.zero_grad()
        return loss.detach()

    run = CapturedStep(step, optimizer.publish) if captured else step
    for i in range(9 if DEVICE.type == "cuda" else 3):  # on the interpreter all are eager
        optimizer.param_groups[0]["lr"] = 0.1 / (i + 1)
        n = 1 + i % 2
        run(randn(n, 8, 8, 3, seed=i), (randn(n, 8, 8, seed=i + 20) > 0).long())
    position = torch.tensor(get_state())
    return [position, *(p.data.clone() for p in (*model.parameters(), *averaged.state_dict().values()))]


@pytest.mark.parametrize("precision", ["fp32", "tf32", "bf16"] if DEVICE.type == "cuda" else ["fp32"])
def test_captured_is_eager(precision: str) -> None:
    with tn.precision(precision):
        eager, captured = weights(False), weights(True)
    assert all(torch.equal(a, b) for a, b in zip(eager, captured, strict=True))
