"""Module: registration, walking, modes, state; beside the same tree built of torch.nn."""

import numpy as np
import pytest
import torch
from helpers import DEVICE, GPU, randn

import tritonnet as tn
from tritonnet import nn
from tritonnet.kernels.convert import cast


def tree(library) -> object:
    """Two branches, a nested sequence, a layer without bias, built of either library."""

    class Branch(library.Module):
        def __init__(self, channels):
            super().__init__()
            self.norm = library.BatchNorm2d(channels)
            self.body = library.Sequential(
                library.Conv2d(channels, 4, 3, padding=1, bias=False), library.ReLU(), library.Conv2d(4, channels, 1)
            )

        def forward(self, x):
            return self.body(self.norm(x))

    class Tree(library.Module):
        def __init__(self):
            super().__init__()
            self.first = Branch(3)
            self.list = library.ModuleList([Branch(3), library.ConvTranspose2d(3, 2, 2, stride=2)])

        def forward(self, x):
            return self.list[1](self.list[0](self.first(x)))

    return Tree()


@pytest.fixture
def ours():
    return tree(nn)


@pytest.fixture
def theirs():
    return tree(torch.nn)


def test_names_and_order_are_torchs(ours, theirs) -> None:
    for walk in ("named_parameters", "named_buffers", "named_modules", "named_children"):
        assert [n for n, _ in getattr(ours, walk)()] == [n for n, _ in getattr(theirs, walk)()], walk
    assert [n for n, _ in ours.named_parameters("a")] == [n for n, _ in theirs.named_parameters("a")]
    assert list(ours.state_dict()) == list(theirs.state_dict())
    for key, value in theirs.state_dict().items():
        assert ours.state_dict()[key].shape == tuple(value.shape), key
        assert ours.state_dict()[key].torch().shape == value.shape, key
        assert ours.state_dict()[key].dtype == value.dtype, key


def test_repr_is_torchs(ours, theirs) -> None:
    assert repr(ours) == repr(theirs).replace(", affine=True, bias=True,", ", affine=True,")  # newer torch shows bias


def test_shared_parameter_counts_once_but_has_two_keys(ours) -> None:
    ours.first.body[2].weight = ours.list[0].body[2].weight
    assert len(list(ours.parameters())) == len(list(ours.state_dict())) - 6 - 1  # 6 buffers, 1 twin
    assert {"first.body.2.weight", "list.0.body.2.weight"} <= set(ours.state_dict())


def test_shared_module_is_walked_once() -> None:
    conv = nn.Conv2d(1, 1, 1)
    both = nn.Sequential(conv, conv)
    assert len(list(both.modules())) == 2
    assert len(list(both.children())) == 1
    assert list(both.state_dict()) == ["0.weight", "0.bias", "1.weight", "1.bias"]


def test_buffers_and_parameters_by_attribute() -> None:
    module = nn.Module()
    module.register_buffer("kept", tn.tensor([1.0]))
    module.register_buffer("unsaved", tn.tensor([2.0]), persistent=False)
    module.register_parameter("none", None)
    assert list(module.state_dict()) == ["kept"]
    assert [name for name, _ in module.named_buffers()] == ["kept", "unsaved"]
    assert module.none is None
    module.kept = tn.tensor([3.0])
    assert module.state_dict()["kept"].item() == 3.0
    module.kept = nn.Parameter(tn.tensor([4.0]))
    assert [name for name, _ in module.named_parameters()] == ["kept"]
    assert "kept" not in dict(module.named_buffers())
    with pytest.raises(TypeError, match="cannot assign int to 'kept': expected a Parameter or None"):
        module.kept = 5
    module.kept = None
    assert list(module.parameters()) == []
    module.plain = 5
    del module.unsaved, module.plain
    with pytest.raises(AttributeError, match="'Module' object has no attribute 'unsaved'"):
        _ = module.unsaved


def test_replaced_child_keeps_its_place() -> None:
    row = nn.Sequential(nn.ReLU(), nn.Tanh(), nn.Sigmoid())
    row[1] = nn.Identity()
    assert [type(m).__name__ for m in row] == ["ReLU", "Identity", "Sigmoid"]
    assert [type(m).__name__ for m in row[1:]] == ["Identity", "Sigmoid"]
    assert row[-1] is row[2]


def test_assigning_before_init_says_so() -> None:
    class Early(nn.Module):
        def __init__(self):
            self.conv = nn.ReLU()

    with pytest.raises(AttributeError, match=r"super\(\).__init__\(\)"):
        Early()


def test_modes_apply_and_freezing(ours) -> None:
    assert all(m.training for m in ours.modules())
    assert ours.eval() is ours
    assert not any(m.training for m in ours.modules())
    assert ours.train() is ours
    assert all(m.training for m in ours.modules())
    seen: list[object] = []
    ours.apply(seen.append)
    assert seen[-1] is ours
    assert len(seen) == len(list(ours.modules()))
    ours.requires_grad_(False)
    assert not any(p.requires_grad for p in ours.parameters())


def test_zero_grad_drops_or_fills() -> None:
    conv = nn.Conv2d(1, 2, 1)
    for none in (True, False):
        conv.weight.grad = tn.tensor([[[[3.0]]], [[[4.0]]]])
        conv.zero_grad(set_to_none=none)
        assert conv.weight.grad is None if none else not conv.weight.grad.torch().any()


def test_device_is_the_process_s_own(ours) -> None:
    assert ours.to(DEVICE) is ours
    assert ours.to(str(DEVICE)) is ours
    if not GPU:
        with pytest.raises(tn.Refused, match="the device of this process is cpu"):
            ours.cuda()
    with pytest.raises(tn.Refused, match="parameters stay float32"):
        ours.to(torch.bfloat16)


def test_forward_hook_sees_and_replaces() -> None:
    module = nn.Identity()
    seen = []
    remove = module.register_forward_hook(lambda m, args, result: seen.append((args, result)))
    assert module(1) == 1
    assert seen == [((1,), 1)]
    remove()
    undo = module.register_forward_hook(lambda *_: 7)
    assert module(1) == 7
    assert len(seen) == 1
    undo()


# --- state ---


@pytest.mark.parametrize("kind", ["torch", "numpy", "ours", "channels-last", "float64", "bfloat16"])
def test_state_round_trip(ours, theirs, kind) -> None:
    convert = {
        "torch": lambda t: t,
        "numpy": lambda t: t.numpy(),
        "ours": lambda t: tn.from_torch(t.to(DEVICE)),
        "channels-last": lambda t: t.contiguous(memory_format=torch.channels_last) if t.dim() == 4 else t,
        "float64": lambda t: t.double() if t.is_floating_point() else t,
        "bfloat16": lambda t: t.bfloat16() if t.is_floating_point() else t,
    }[kind]
    for module in (m for m in theirs.modules() if isinstance(m, torch.nn.BatchNorm2d)):
        module.num_batches_tracked.fill_(7)
        module.running_mean.normal_()
    state = theirs.state_dict()
    result = ours.load_state_dict({key: convert(value) for key, value in state.items()})
    assert result == ([], [])
    for key, value in ours.state_dict().items():
        want = state[key] if kind != "bfloat16" else convert(state[key]).to(state[key].dtype)
        assert torch.equal(value.torch().cpu(), want), key
        assert np.array_equal(value.numpy(), want.numpy()), key


def test_loading_reads_numpy_numbers_and_strided_read_only_arrays() -> None:
    norm = nn.BatchNorm2d(2)
    strided = np.arange(4, dtype=np.float32)[::2]
    strided.flags.writeable = False
    state = {key: value.numpy() for key, value in norm.state_dict().items()}
    norm.load_state_dict(state | {"running_mean": strided, "num_batches_tracked": np.int64(5)})
    assert norm.running_mean.numpy().tolist() == [0, 2]
    assert norm.num_batches_tracked.item() == 5


def test_loading_keeps_the_memory_and_counts_the_change(ours) -> None:
    weight = ours.first.body[0].weight
    where, version = weight.data.data_ptr(), weight.version
    state = {key: value.numpy() + 1 for key, value in ours.state_dict().items()}
    low = weight.in_dtype(torch.bfloat16).data
    ours.load_state_dict(state)
    assert weight.data.data_ptr() == where
    assert weight.version == version + 1
    assert weight.in_dtype(torch.bfloat16).data is low
    assert torch.equal(low, cast(weight.data, torch.bfloat16))


def test_another_buffer_has_copies_of_its_own() -> None:
    weight = nn.Parameter(tn.tensor([1.0, 2.0]))
    for copy in (lambda: weight.in_dtype(torch.bfloat16).data, lambda: weight.scaled().values):
        assert copy() is copy()
        weight.data = tn.tensor([3.0, 4.0]).data
        assert float(copy()[1] / copy()[0]) == pytest.approx(4 / 3, rel=1e-2)
        weight.data = tn.tensor([1.0, 2.0]).data
        assert float(copy()[1] / copy()[0]) == 2


def test_strict_names_every_problem_and_loads_nothing(ours, theirs) -> None:
    before = {key: value.numpy() for key, value in ours.state_dict().items()}
    state = {key: value.clone() + 1 for key, value in theirs.state_dict().items()}
    state.pop("first.norm.bias")
    state["first.norm.extra"] = torch.zeros(1)
    state["list.1.bias"] = torch.zeros(5)
    with pytest.raises(RuntimeError) as caught:
        ours.load_state_dict(state)
    text = str(caught.value)
    assert text.startswith(
        'Error(s) in loading state_dict for Tree:\n\tMissing key(s) in state_dict: "first.norm.bias". '
    )
    assert 'Unexpected key(s) in state_dict: "first.norm.extra". ' in text
    assert (
        "size mismatch for list.1.bias: copying a param with shape (5,) from checkpoint, the shape in current" in text
    )
    assert isinstance(caught.value, tn.Refused)
    with pytest.raises(RuntimeError, match=r"size mismatch for list\.1\.bias"):
        ours.load_state_dict(state, strict=False)
    for key, value in ours.state_dict().items():
        assert np.array_equal(value.numpy(), before[key]), key
    state.pop("list.1.bias")
    missing, unexpected = ours.load_state_dict(state, strict=False)
    assert missing == ["first.norm.bias", "list.1.bias"]
    assert unexpected == ["first.norm.extra"]
    assert np.array_equal(ours.first.norm.weight.numpy(), state["first.norm.weight"].numpy())


def test_a_value_that_is_no_array_is_refused() -> None:
    with pytest.raises(RuntimeError, match="weight must be a Tensor, a torch tensor or a numpy array, got str"):
        nn.Conv2d(1, 1, 1).load_state_dict({"weight": "heavy", "bias": torch.zeros(1)})


def test_a_path_is_no_state_dict() -> None:
    with pytest.raises(
        RuntimeError, match=r"must map names to arrays, got str; tritonnet\.io\.load_model\(path\)\.model"
    ):
        nn.Conv2d(1, 1, 1).load_state_dict("best.h5")


def test_a_state_dict_shares_memory_and_has_no_history(ours) -> None:
    value = ours.state_dict()["first.body.0.weight"]
    assert value.data.data_ptr() == ours.first.body[0].weight.data.data_ptr()
    assert not value.requires_grad


def test_the_tree_computes_what_torchs_does(ours, theirs) -> None:
    ours.load_state_dict(theirs.state_dict())
    x = randn(2, 3, 5, 6)
    for mode in (True, False):
        ours.train(mode), theirs.train(mode)
        expected = theirs.double()(x.cpu().double()).detach()
        got = ours(tn.from_torch(x.contiguous())).torch().cpu().double()
        assert float((got - expected).norm() / expected.norm()) < 1e-5
    for key, value in theirs.state_dict().items():
        assert np.allclose(ours.state_dict()[key].numpy(), value.numpy(), rtol=1e-5, atol=1e-6), key


def test_registering_something_else_says_so() -> None:
    module = nn.Module()
    for call in (
        lambda: nn.Sequential([nn.ReLU()]),
        lambda: module.register_parameter("weight", tn.tensor([1.0])),
        lambda: nn.CrossEntropyLoss(weight=torch.ones(3)),
    ):
        with pytest.raises(TypeError, match=r"expected a tritonnet (Module|Parameter|Tensor) or None"):
            call()
    with pytest.raises(KeyError, match="without a point"):
        module.add_module("a.b", nn.ReLU())
