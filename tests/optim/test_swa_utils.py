"""AveragedModel against torch's, in float64."""

from typing import Any

import pytest
import torch
from helpers import assert_close, randn, to64

import tritonnet as tn
from tritonnet import nn
from tritonnet.kernels import fault
from tritonnet.kernels.convert import cast
from tritonnet.kernels.runtime import Refused
from tritonnet.optim import swa_utils

FUNCTIONS: dict[str, Any] = {
    "equal": lambda module: None,
    "ema": lambda module: module.get_ema_multi_avg_fn(0.9),
    "ema-0": lambda module: module.get_ema_multi_avg_fn(0.0),
}


def network() -> nn.Sequential:
    """Weights in and past a block of elements, statistics and a count."""
    return nn.Sequential(nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5), nn.Conv2d(5, 70, 15))


def twin(model: nn.Module) -> torch.nn.Module:
    theirs = torch.nn.Sequential(torch.nn.Conv2d(3, 5, 3), torch.nn.BatchNorm2d(5), torch.nn.Conv2d(5, 70, 15)).double()
    theirs.load_state_dict({k: v.torch().cpu() for k, v in model.state_dict().items()})
    return theirs


def shake(model: nn.Module, theirs: torch.nn.Module, seed: int) -> None:
    """The same new weights and statistics for both."""
    state = {k: randn(*v.shape, seed=seed + i) for i, (k, v) in enumerate(model.state_dict().items()) if v.shape}
    count = {"1.num_batches_tracked": torch.tensor(seed)}
    model.load_state_dict({**state, **count})
    theirs.load_state_dict({**{k: v.cpu() for k, v in state.items()}, **count})


@pytest.mark.parametrize("use_buffers", [False, True])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_averages_are_torchs(name: str, use_buffers: bool) -> None:
    model = network()
    theirs = twin(model)
    ours = swa_utils.AveragedModel(model, multi_avg_fn=FUNCTIONS[name](swa_utils), use_buffers=use_buffers)
    reference = torch.optim.swa_utils.AveragedModel(
        theirs, multi_avg_fn=FUNCTIONS[name](torch.optim.swa_utils), use_buffers=use_buffers
    )
    for step in range(5):
        shake(model, theirs, 100 * (step + 1))
        ours.update_parameters(model)
        reference.update_parameters(theirs)
    state = ours.state_dict()
    assert list(state) == list(reference.state_dict())
    for key, expected in reference.state_dict().items():
        if key.endswith("num_batches_tracked"):
            assert state[key].item() == 500  # copied: an average of counts says nothing
        else:
            # a few roundings of each of 5 updates
            assert_close(state[key].torch(), expected, 1e-6, what=key)


def test_the_first_update_copies_the_bits() -> None:
    model = network()
    ours = swa_utils.AveragedModel(model, multi_avg_fn=swa_utils.get_ema_multi_avg_fn())
    shake(model, twin(model), 1)
    ours.update_parameters(model)
    pairs = zip(ours.module.parameters(), model.parameters(), strict=True)
    assert all(torch.equal(a.data, w.data) and a.data is not w.data for a, w in pairs)
    assert ours.n_averaged.item() == 1


def test_nothing_changes_while_the_flag_is_up() -> None:
    model = network()
    ours = swa_utils.AveragedModel(model)
    ours.update_parameters(model)
    before = [p.data.clone() for p in ours.parameters()]
    shake(model, twin(model), 1)
    fault.flag().fill_(fault.LOSS.value)
    ours.update_parameters(model)
    fault.flag().fill_(0)
    assert all(torch.equal(p.data, b) for p, b in zip(ours.parameters(), before, strict=True))
    assert ours.n_averaged.item() == 1


def test_forward_sees_the_averages_in_16_bits_too() -> None:
    model = nn.Sequential(nn.Conv2d(3, 2, 1, bias=False))
    ours = swa_utils.AveragedModel(model)
    weight = next(ours.module.parameters())
    low = weight.in_dtype(torch.bfloat16).data  # as a forward in bf16 leaves it
    model.load_state_dict({"0.weight": randn(2, 3, 1, 1, seed=5)})
    ours.update_parameters(model)
    assert weight.in_dtype(torch.bfloat16).data is low  # written again, where a recorded forward reads it
    assert torch.equal(low, cast(weight.data, torch.bfloat16))
    x = tn.from_torch(randn(1, 3, 2, 2))
    assert_close(ours(x).torch(), to64(model(x).torch()), 1e-6)


@pytest.mark.gpu
def test_captured_update_is_the_eager_one() -> None:
    model = network()
    averages = [swa_utils.AveragedModel(model, multi_avg_fn=swa_utils.get_ema_multi_avg_fn(0.9)) for _ in range(2)]
    for one in averages:
        one.update_parameters(model)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        averages[0].update_parameters(model)
    for step in range(3):
        model.load_state_dict({k: randn(*v.shape, seed=step) for k, v in model.state_dict().items() if v.shape}, False)
        graph.replay()
        averages[1].update_parameters(model)
    pairs = zip(*(one.parameters() for one in averages), strict=True)
    assert all(torch.equal(a.data, b.data) for a, b in pairs)
    assert averages[0].n_averaged.item() == 4


def test_refuses() -> None:
    model = nn.Conv2d(1, 1, 1)
    assert swa_utils.AveragedModel(model, multi_avg_fn=swa_utils.get_swa_multi_avg_fn()).decay is None
    with pytest.raises(Refused, match=r"decay must be from 0 to 1, got 1\.5"):
        swa_utils.get_ema_multi_avg_fn(1.5)
    with pytest.raises(Refused, match="multi_avg_fn must come from get_ema_multi_avg_fn"):
        swa_utils.AveragedModel(model, multi_avg_fn=print)
    with pytest.raises(Refused, match="avg_fn must be None"):
        swa_utils.AveragedModel(model, avg_fn=print)
