"""Recorded calls give the bits of eager ones, whatever happens between two of them.

On the interpreter a graph is the launches of one call, made again on the same buffers (`graphs.by_launches`).
"""

import gc
import weakref
from collections.abc import Callable
from copy import deepcopy

import pytest
import torch
from graphs import recordings  # noqa: F401
from helpers import GPU, randn

import tritonnet as tn
from tritonnet.kernels.runtime import Refused
from tritonnet.models import segmenter
from tritonnet.nn import capture
from tritonnet.nn.capture import MOST, Captured
from tritonnet.nn.utils import clip_grad_norm_
from tritonnet.ops.random import get_state
from tritonnet.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

WIDE = 16 if GPU else 2
PRECISIONS = ["fp32", "tf32", "bf16"] if GPU else ["bf16"]


def network(seed: int = 0) -> tn.models.UNet:
    tn.manual_seed(seed)
    model = tn.models.UNet(3, 2, base_channels=WIDE, depth=1)
    for p in model.parameters():  # norms that are not the identity
        tn.nn.init.normal_(p, 0.3, 0.5)
    return model.eval()


def weights(captured: bool, alone: bool = False) -> list[torch.Tensor]:
    """The random numbers' position, the parameters and their averages after some steps of two batch sizes.

    With dropout (a mask a step), clipping and a falling learning rate. The second size is due for recording right after the
    first, when no host memory is left for its tables: one more eager step.
    """
    tn.manual_seed(3)
    model = tn.models.UNet(3, 2, base_channels=WIDE, depth=1, dropout=0.3)
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

    run = Captured(step, model, optimizer.publish, alone=alone) if captured else step
    losses = []
    for i in range(9):
        optimizer.param_groups[0]["lr"] = 0.1 / (i + 1)
        n = 1 + i % 2
        losses.append(run(randn(n, 4, 4, 3, seed=i), (randn(n, 4, 4, seed=i + 20) > 0).long()).data)
    position = torch.tensor(get_state())
    state = (*model.parameters(), *model.buffers(), *averaged.state_dict().values())
    return [position, *losses, *(p.data.clone() for p in state)]


@pytest.mark.parametrize("alone", [False, True])
@pytest.mark.parametrize("precision", PRECISIONS)
def test_steps(precision: str, alone: bool, recordings: list[Captured]) -> None:  # noqa: F811
    with tn.precision(precision):
        eager = weights(False)
        captured = weights(True, alone)
    assert len(recordings) == 2
    assert all(torch.equal(a, b) for a, b in zip(eager, captured, strict=True))


def retrained(model: tn.models.UNet) -> None:
    """Some steps, as a recorded one makes them: the copies that forwards read are written in place."""
    optimizer = tn.optim.Adam(model.parameters(), lr=0.1)
    model.train()
    for seed in (3, 4):
        loss = model(tn.Tensor(randn(2, 4, 4, 3, seed=seed))).sum()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.eval()


def another_head(model: tn.models.UNet) -> None:
    model.outc.conv = deepcopy(network(5).outc.conv)


def hooked(model: tn.models.UNet) -> None:
    model.outc.register_forward_hook(lambda module, args, result: result * 2.0)


def another_eps(model: tn.models.UNet) -> None:
    model.inc.double_conv[1].eps = 0.5


def in_fp16(model: tn.models.UNet) -> None:
    with tn.precision("fp16"), tn.no_grad():
        model(tn.Tensor(randn(1, 4, 4, 3)))


def other_data(model: tn.models.UNet) -> None:
    weight = model.outc.conv.weight
    weight.data = weight.data * 2
    weight.changed()


EVENTS: dict[str, tuple[Callable[[tn.models.UNet], object], int]] = {  # and how often is recorded in all
    "nothing": (lambda model: None, 1),
    "load_state_dict": (lambda model: model.load_state_dict(network(7).state_dict()), 1),
    "training": (retrained, 1),
    "statistics": (lambda model: (model.train()(tn.Tensor(randn(2, 4, 4, 3, seed=8))), model.eval()), 1),
    "head": (another_head, 2),
    "setting": (another_eps, 2),
    "memory": (other_data, 2),
    "hook": (hooked, 1),
    "precision": (in_fp16, 2),
}


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("event", EVENTS)
def test_forwards(event: str, precision: str, recordings: list[Captured]) -> None:  # noqa: F811
    """Three before it, of which the third is recorded, and three after it; compared at the end, each in its own memory."""
    happen, times = EVENTS[event]
    model, twin = network(), network()
    found, expected = [], []
    for i in range(6):
        if i == 3:
            happen(model)
            happen(twin)
        x = tn.Tensor(randn(2, 4, 4, 3, seed=i))
        with model.evaluating() as forward, tn.precision(precision):
            found.append(forward(x).data)
        with tn.no_grad(), tn.precision(precision):
            expected.append(twin(x).data)
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
    assert len(recordings) == times


def test_averages(recordings: list[Captured]) -> None:  # noqa: F811
    """Their 16-bit copies are written again after each update, where the recorded forward reads them."""
    model = network()
    averaged = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.5), use_buffers=True)
    x = tn.Tensor(randn(2, 4, 4, 3))
    for seed in range(5):
        model.load_state_dict(network(seed).state_dict())
        averaged.update_parameters(model)
        with tn.precision("bf16"):
            with averaged.module.evaluating() as forward:
                found = forward(x).data
            with tn.no_grad():
                assert torch.equal(found, deepcopy(averaged.module).eval()(x).data)
    assert len(recordings) == 1


def test_shapes_are_bounded(recordings: list[Captured]) -> None:  # noqa: F811
    model, sizes = network(), range(2, 3 + MOST)
    images = {size: tn.Tensor(randn(1, size, size, 3)) for size in sizes}
    with model.evaluating() as forward:
        for _ in range(4):  # each is given up before its third call
            for size in sizes:
                forward(images[size])
        assert not recordings
        for _ in range(4):  # of two sizes, the others being forgotten
            for size in (2, 3):
                forward(images[size])
    assert len(recordings) == 2
    assert len(recordings[0].shapes) == MOST


@pytest.mark.parametrize("error", [torch.OutOfMemoryError, Refused, RuntimeError])
def test_a_recording_that_fails(
    error: type[Exception],
    recordings: list[Captured],  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The model is as before; without memory, or refused, the shape stays eager."""
    model, tried = network(), []

    def fail(captured: Captured, own: list[torch.Tensor]) -> None:
        tried.append(captured)
        weight = next(model.parameters())
        weight.low, weight.grad = torch.full_like(weight.data, 9, dtype=torch.bfloat16), tn.Tensor(weight.data)
        raise error("no")

    monkeypatch.setattr(Captured, "_capture", fail)
    x = tn.Tensor(randn(1, 4, 4, 3))
    with model.evaluating() as forward, tn.precision("bf16"):
        first, *_ = [forward(x).data for _ in range(2)]
        if error is RuntimeError:
            with pytest.raises(RuntimeError, match="no"):
                forward(x)
        else:
            assert all(torch.equal(first, forward(x).data) for _ in range(4))
        assert torch.equal(first, model(x).data)
    assert len(tried) == 1
    assert next(model.parameters()).grad is None
    assert not recordings


def test_copies_made_within_a_capture_are_not_kept(recordings: list[Captured]) -> None:  # noqa: F811
    """Only a replay would write them."""
    model, x = network(), randn(1, 4, 4, 3)
    weight = model.inc.double_conv[0].weight

    def run(x: torch.Tensor) -> tn.Tensor:
        weight.low = None  # as if it were of another precision
        with tn.no_grad():
            return model(tn.Tensor(x))

    with tn.precision("bf16"):
        captured = Captured(run, model)
        expected, *found = [captured(x).data for _ in range(5)]
    assert all(torch.equal(expected, y) for y in found)
    assert not recordings


def test_what_is_recorded_is_freed_with_its_model(recordings: list[Captured]) -> None:  # noqa: F811
    model = network()
    with model.evaluating() as forward:
        for _ in range(3):
            forward(tn.Tensor(randn(1, 4, 4, 3)))
    assert len(recordings) == 1
    assert deepcopy(model) not in segmenter._forwards
    gone = weakref.ref(recordings.pop())
    gc.collect()
    gc.disable()
    try:
        del model, forward
        assert gone() is None, "without a collection"
    finally:
        gc.enable()


def test_a_context_gives_its_graphs_up(recordings: list[Captured]) -> None:  # noqa: F811
    model = network()
    with Captured(lambda x: model(tn.Tensor(x)).detach(), model) as captured:
        for _ in range(3):
            captured(randn(1, 4, 4, 3))
        assert captured.shapes
    assert len(recordings) == 1
    assert not captured.shapes


@pytest.mark.skipif(not GPU, reason="the interpreter has no graphs")
def test_a_graph_that_is_garbage_outlives_the_recording_of_another() -> None:
    """A run drops a recorded network in a cycle while it is recorded itself, and the collector is eager."""
    old: list[object] = []

    def run(images: torch.Tensor) -> tn.Tensor:
        if old and torch.cuda.is_current_stream_capturing():
            cycle = [old.pop()]
            cycle.append(cycle)
            del cycle
            old.extend([[] for _ in range(5000)])  # enough for a collection
        with tn.no_grad():
            return model(tn.Tensor(images))

    model, images = network(), randn(1, 8, 8, 3)
    first, second = Captured(run, model), Captured(run, model)
    threshold = gc.get_threshold()
    try:
        gc.set_threshold(10)
        *_, expected = (first(images).torch() for _ in range(4))
        old.append(first)
        del first
        assert all(torch.equal(second(images).torch(), expected) for _ in range(4))
    finally:
        gc.set_threshold(*threshold)
    assert next(iter(second.shapes.values())).recording is not None


@pytest.mark.skipif(GPU, reason="a GPU has graphs")
def test_the_interpreter_has_no_graphs() -> None:
    model = network()
    captured = Captured(lambda x: model(tn.Tensor(x)).detach(), model)
    assert not capture.recordable()
    for _ in range(4):
        captured(randn(1, 2, 2, 3))
    assert not captured.shapes
