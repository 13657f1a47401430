"""UNet: sizes, published names and weights, any image size, the fused forward against the plain one."""

import sys

import numpy as np
import pytest
import torch
from helpers import DEVICE, GPU, assert_close, randn, to64
from torch_networks import TorchUNet

import tritonnet as tn
from tritonnet import models, nn
from tritonnet.kernels import runtime
from tritonnet.kernels.cat import cat_fwd
from tritonnet.kernels.scaled import Scaled
from tritonnet.nn.functional import cat
from tritonnet.ops import norm

# parameters: (arguments, keyword arguments)
SIZES = {
    31_037_698: ((3, 2), {}),
    31_037_633: ((3, 1), {}),
    17_263_042: ((3, 2), {"upsample": "bilinear"}),
    27_904_258: ((3, 2), {"skip": "add"}),
    32_431_298: ((3, 2), {"down": "conv"}),
}


@pytest.mark.parametrize("count", SIZES)
def test_parameters_and_names_of_the_published_sizes(count) -> None:
    args, kwargs = SIZES[count]
    with runtime.recording("sm_90", lambda *_: None):  # buffers without memory: 31 million numbers need not be drawn
        ours = models.UNet(*args, **kwargs)
    assert sum(p.numel() for p in ours.parameters()) == count
    with torch.device("meta"):
        theirs = TorchUNet(*args, **kwargs).state_dict()
    assert {k: tuple(v.shape) for k, v in theirs.items()} == {k: v.shape for k, v in ours.state_dict().items()}
    assert list(theirs) == list(ours.state_dict())


def test_published_names() -> None:
    keys = list(models.UNet(3, 2, base_channels=2, depth=4).state_dict())
    norm = ["weight", "bias", "running_mean", "running_var", "num_batches_tracked"]
    double = ["0.weight", *(f"1.{n}" for n in norm), "3.weight", *(f"4.{n}" for n in norm)]
    want = [f"inc.double_conv.{n}" for n in double]
    want += [f"down{i}.maxpool_conv.1.double_conv.{n}" for i in (1, 2, 3, 4) for n in double]
    for i in (1, 2, 3, 4):
        want += [f"up{i}.up.weight", f"up{i}.up.bias", *(f"up{i}.conv.double_conv.{n}" for n in double)]
    assert keys == [*want, "outc.conv.weight", "outc.conv.bias"]
    bilinear = list(models.UNet(3, 2, base_channels=2, depth=4, upsample="bilinear").state_dict())
    assert bilinear == [key for key in keys if ".up." not in key]


def networks(seed: int = 0, **kwargs) -> tuple[models.UNet, TorchUNet]:
    """Ours and torch's with the same values, running statistics included."""
    torch.manual_seed(seed)
    theirs = TorchUNet(3, 2, **kwargs)
    for module in theirs.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            for value, low, high in (
                (module.running_mean, -0.5, 0.5), (module.running_var, 0.5, 2),
                (module.weight, 0.5, 2), (module.bias, -1, 1),
            ):  # fmt: skip
                torch.nn.init.uniform_(value, low, high)
    ours = models.UNet(3, 2, **kwargs)
    ours.load_state_dict(theirs.state_dict())
    return ours, theirs


# name: (keyword arguments, image size, training)
FORWARD = {
    "even": ({"base_channels": 4, "depth": 2}, (2, 16, 20), True),
    "odd": ({"base_channels": 3, "depth": 3}, (1, 17, 27), True),
    "odd-inside": ({"base_channels": 2, "depth": 3}, (1, 20, 12), False),
    "bilinear": ({"base_channels": 4, "depth": 2, "upsample": "bilinear"}, (1, 18, 13), True),
    "bilinear-deep": ({"base_channels": 2, "depth": 4, "upsample": "bilinear"}, (1, 16, 33), False),
    "one-level": ({"base_channels": 2, "depth": 1}, (1, 3, 5), True),
    "add": ({"base_channels": 4, "depth": 2, "skip": "add"}, (2, 9, 14), True),
    "add-bilinear": ({"base_channels": 4, "depth": 2, "skip": "add", "upsample": "bilinear"}, (1, 18, 13), False),
    "conv": ({"base_channels": 3, "depth": 2, "down": "conv"}, (1, 11, 12), True),
    "add-conv": ({"base_channels": 4, "depth": 2, "skip": "add", "down": "conv"}, (1, 13, 10), True),
    "conv-bilinear": ({"base_channels": 2, "depth": 1, "down": "conv", "upsample": "bilinear"}, (1, 5, 6), False),
}


@pytest.mark.parametrize("name", FORWARD)
def test_forward_like_torch(name) -> None:
    kwargs, (n, h, w), training = FORWARD[name]
    ours, theirs = networks(**kwargs)
    x = randn(n, 3, h, w)
    ours.train(training), theirs.double().train(training)
    got, expected = ours(tn.from_torch(x)), theirs(to64(x)).detach()
    assert got.shape == (n, 2, h, w)
    assert_close(got.torch(), expected, 1e-5)
    for key, value in theirs.state_dict().items():
        assert_close(ours.state_dict()[key].torch(), value, 1e-5, what=key)


def test_published_file_gives_its_output(tmp_path) -> None:
    _, theirs = networks(seed=3, base_channels=4)
    path = tmp_path / "published.pth"
    torch.save(theirs.state_dict() | {"mask_values": [0, 1]}, path)
    ours = models.UNet(3, 2, base_channels=4).eval()
    loaded = torch.load(path, weights_only=True)
    ours.load_state_dict(loaded)
    x = randn(1, 3, 19, 32)
    got = ours(tn.from_torch(x)).torch().cpu().double()
    expected = theirs.double().eval()(to64(x)).detach()
    assert float((got - expected).norm() / expected.norm()) < 1e-5
    with pytest.raises(nn.StateDictError, match=r"Unexpected key\(s\) in state_dict: \"other\""):
        ours.load_state_dict(loaded | {"other": torch.zeros(1)})


@pytest.mark.gpu
def test_full_size_like_torch() -> None:
    ours, theirs = networks(base_channels=64)
    x = randn(1, 3, 96, 131)
    with torch.no_grad():
        assert_close(ours.eval()(tn.from_torch(x)).torch(), theirs.double().eval()(to64(x)), 1e-5)


def gradients(model: models.UNet, x: torch.Tensor) -> tuple[list[np.ndarray], np.ndarray]:
    """Every gradient of a sum of squares, and the output."""
    model.zero_grad()
    y = model(tn.from_torch(x))
    y.backward(tn.from_torch(y.torch().detach().clone()))
    return [p.grad.numpy() for p in model.parameters()], y.numpy()


class Spy(nn.Identity):
    """A child of another type, which therefore must be called."""

    calls = 0

    def forward(self, input):
        """Count, and do what the ReLU it stands for does."""
        Spy.calls += 1
        return nn.functional.relu(input)


# arguments, image size, training
PATHS = {
    "transposed": ({}, (8, 10), True),
    "bilinear": ({"upsample": "bilinear"}, (8, 10), False),
    "add": ({"skip": "add"}, (9, 11), True),
    "conv": ({"down": "conv"}, (9, 11), True),
    "add-conv-bilinear": ({"skip": "add", "down": "conv", "upsample": "bilinear"}, (11, 9), False),
}


@pytest.mark.parametrize("name", PATHS)
def test_replaced_child_takes_the_plain_path_to_the_same_numbers(name) -> None:
    kwargs, size, training = PATHS[name]
    ours, _ = networks(base_channels=4, depth=2, **kwargs)
    x = randn(2, 3, *size)
    before = {key: value.numpy() for key, value in ours.state_dict().items()}
    assert ours.train(training).is_as_built()
    fused, y = gradients(ours, x)
    state = {key: value.numpy() for key, value in ours.state_dict().items()}
    Spy.calls = 0
    ours.load_state_dict(before)
    ours.up1.conv.double_conv[2] = Spy().train(training)
    assert not ours.is_as_built()
    plain, y_plain = gradients(ours, x)
    assert Spy.calls == 1
    # the same kernels in another grouping: a few roundings apart
    assert_close(torch.from_numpy(y), torch.from_numpy(y_plain), 1e-6)
    for (name, _), a, b in zip(ours.named_parameters(), fused, plain, strict=True):
        assert_close(torch.from_numpy(a), torch.from_numpy(b), 1e-5, atol=1e-6, what=name)
    for key, value in ours.state_dict().items():
        assert np.allclose(value.numpy(), state[key], rtol=1e-6, atol=1e-7), key


@pytest.mark.parametrize(
    ("precision", "ways"), [("fp32", ("concat", "pool")), ("bf16", ("concat", "pool")), ("fp32", ("add", "conv"))]
)
def test_evaluation_without_recording_is_the_same_in_fewer_kernels(precision, ways, monkeypatch) -> None:
    ours, _ = networks(base_channels=4, depth=2, skip=ways[0], down=ways[1])
    ours.train()(tn.from_torch(randn(2, 3, 8, 10)))  # running statistics of its own
    x = tn.from_torch(randn(2, 3, 8, 10, seed=1))
    ours.eval()
    with tn.precision(precision):
        recorded = ours(x).detach()
        monkeypatch.setattr(norm, "batch_norm_fwd", None)  # nobody calls it
        with tn.no_grad():
            y = ours(x)
    # in bf16 the images between convolution and batch norm are not rounded: six layers of one rounding each
    assert_close(tn.ops.to(y, torch.float32).torch(), recorded.torch(), 1e-5 if precision == "fp32" else 6 * 2**-8)


@pytest.mark.parametrize(("size", "joined"), [((8, 12), 96 * 8 + 24 * 16), ((8, 10), 80 * 8)], ids=["even", "padded"])
def test_recomputing_keeps_less_and_gives_the_same_bits(size: tuple[int, int], joined: int) -> None:
    """What was padded before it was joined is kept."""
    ours, _ = networks(base_channels=4, depth=2)
    x = randn(2, 3, *size)
    state = {key: value.numpy() for key, value in ours.state_dict().items()}
    before, _ = gradients(ours.train(), x)
    kept = []
    for levels in (0, 2):
        ours.load_state_dict(state)
        ours.recompute(levels)
        y = ours(tn.from_torch(x))
        kept.append(saved_bytes(y))
        after, _ = gradients(ours, x)
    # 4 and 8 channels of whole and of half the size on the way down, and on the way up
    pixels = size[0] * size[1]
    assert kept[0] - kept[1] == 2 * (2 * (pixels * 4 + pixels // 4 * 8) + joined) * 4
    assert all(np.array_equal(a, b) for a, b in zip(before, after, strict=True))


def saved_bytes(y: tn.Tensor) -> int:
    """Bytes of the different buffers that the recorded operations keep for the backward."""
    nodes, stack, found = set(), [y.edge()[0]], {}
    while stack:
        node = stack.pop()
        if node not in nodes:
            nodes.add(node)
            stack += [edge[0] for edge in node.edges if isinstance(edge, tuple)]
            found |= {b.data_ptr(): b.untyped_storage().nbytes() for b in node.ctx.saved if b is not None}
    return sum(found.values())


def test_dropout_drops_at_the_coarsest_level_in_training_alone() -> None:
    ours, _ = networks(base_channels=4, depth=1)
    dropping = models.UNet(3, 2, base_channels=4, depth=1, dropout=0.5)
    dropping.load_state_dict(ours.state_dict())
    x = tn.from_torch(randn(1, 3, 6, 6))
    assert np.array_equal(dropping.eval()(x).numpy(), ours.eval()(x).numpy())
    seen = []
    dropping.train().dropout.register_forward_hook(lambda module, args, y: seen.append((args[0].shape, y.numpy())))
    tn.manual_seed(1)
    plain = dropping(x).numpy()
    dropping.dropout._hooks.clear()
    tn.manual_seed(1)
    assert np.allclose(dropping(x).numpy(), plain, rtol=1e-4, atol=1e-5), "one mask in both forwards"
    assert not np.allclose(dropping(x).numpy(), plain, rtol=1e-2)
    [(shape, dropped)] = seen
    assert shape == (1, 8, 3, 3)
    assert 0.2 < (dropped == 0).mean() < 0.95


def test_replaced_block_is_called() -> None:
    ours = models.UNet(3, 2, base_channels=2, depth=1)
    ours.inc = nn.Sequential(nn.Conv2d(3, 2, 1), nn.Tanh())
    assert ours(tn.from_torch(randn(1, 3, 4, 4))).shape == (1, 2, 4, 4)


def test_replaced_convolution_of_the_same_type_is_used() -> None:
    ours = models.UNet(3, 2, base_channels=2, depth=1)
    ours.inc.double_conv[0] = nn.Conv2d(3, 2, 5, padding=2)
    ours(tn.from_torch(randn(1, 3, 4, 4)))
    y = ours(tn.from_torch(randn(1, 3, 4, 4)))
    y.backward(tn.from_torch(randn(*y.shape)))
    assert ours.inc.double_conv[0].bias.grad is not None


def test_skips_lie_in_one_buffer_with_what_joins_them(capsys) -> None:
    ours = models.UNet(3, 2, base_channels=2, depth=2)
    tn.graph(ours(tn.from_torch(randn(1, 3, 8, 8))))
    lines = [line.split(" = ")[1] for line in capsys.readouterr().out.splitlines()]
    assert sum(line.startswith("BatchNorm") for line in lines) == 10
    assert not any(line.startswith("ReLU") for line in lines), "batch norm and ReLU are one operation"
    consumers = [sum(f"%{i}" in line.replace(")", ",").split("(")[1].replace(",", " ").split() for line in lines)
                 for i in range(1, len(lines) + 1)]  # fmt: skip
    assert sorted(consumers)[-3:] == [1, 2, 2], "each skip feeds the pool and the join"


@pytest.mark.parametrize("size", [(8, 12), (9, 7)])
@pytest.mark.parametrize("upsample", ["transposed", "bilinear"])
def test_joining_copies_nothing(upsample, size, monkeypatch) -> None:
    joined = []

    def watched(xs, dim):
        y = cat_fwd(xs, dim)
        joined.append(y.data_ptr() == xs[0].data_ptr())
        return y

    monkeypatch.setattr(sys.modules[cat.__module__], "cat_fwd", watched)
    models.UNet(3, 2, base_channels=2, depth=2, upsample=upsample).eval()(tn.from_torch(randn(1, 3, *size)))
    assert joined == [True, True]


def test_two_runs_with_one_seed_are_identical() -> None:
    runs = []
    for _ in range(2):
        tn.manual_seed(5)
        model = models.UNet(3, 2, base_channels=2, depth=2)
        optimizer = tn.optim.Adam(model.parameters(), lr=1e-2)
        for step in range(2):
            logits = model(tn.from_torch(randn(1, 3, 8, 8, seed=step)))
            target = torch.randint(0, 2, (1, 8, 8), generator=torch.Generator().manual_seed(step)).to(DEVICE)
            loss = nn.CrossEntropyLoss()(logits, tn.from_torch(target))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        runs.append({key: value.numpy() for key, value in model.state_dict().items()})
    for key, value in runs[0].items():
        assert np.array_equal(value, runs[1][key]), key


@pytest.mark.skipif(not GPU, reason="16-bit matrix products need a GPU")
@pytest.mark.parametrize(("precision", "rtol"), [("bf16", 5e-2), ("fp16", 1e-2), ("tf32", 5e-3)])
def test_lower_precisions(precision, rtol) -> None:
    ours, theirs = networks(base_channels=16)
    x = randn(2, 3, 64, 64)
    with tn.precision(precision), torch.no_grad():
        got = ours.eval()(tn.from_torch(x)).torch()
        # rounding errors of about 40 layers add up like a random walk: sqrt(40) x eps x a few
        assert_close(got, theirs.double().eval()(to64(x)), rtol)


def test_training_in_tf32(tensor_maps) -> None:
    """Beside float32; and the scaled copies of the weights follow each step."""
    losses, states = [], []
    for precision in ("tf32", "fp32"):
        tn.manual_seed(5)
        model = models.UNet(3, 2, base_channels=16, depth=1)
        optimizer = tn.optim.SGD(model.parameters(), lr=1e-2)
        with tn.precision(precision):
            for step in range(2):
                x, target = randn(1, 3, 8, 8, seed=step), (randn(1, 8, 8, seed=step + 9) > 0).long()
                loss = nn.CrossEntropyLoss()(model(tn.from_torch(x)), tn.from_torch(target))
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                losses.append(loss.item())
            assert sum(isinstance(p.low, Scaled) for p in model.parameters()) == (6 if precision == "tf32" else 0)
            model.eval()
            with tn.no_grad():
                after = model(tn.from_torch(x)).torch()
                model.load_state_dict({key: value.numpy() for key, value in model.state_dict().items()})
                assert torch.equal(after, model(tn.from_torch(x)).torch())
        states.append(torch.cat([to64(p.torch()).flatten() for p in model.parameters()]))
    assert losses[:2] == pytest.approx(losses[2:], rel=2**-11 if not GPU else 2**-9)
    assert_close(*states, 1e-4)  # steps of a hundredth, off by a few 2^-11


REFUSED = {
    "upsample": (
        lambda: models.UNet(3, 2, upsample="nearest"),
        "upsample must be transposed or bilinear, got 'nearest'",
    ),
    "skip": (lambda: models.UNet(3, 2, skip="none"), "skip must be concat or add, got 'none'"),
    "down": (lambda: models.UNet(3, 2, down="mean"), "down must be pool or conv, got 'mean'"),
    "classes": (lambda: models.UNet(3, 0), "num_classes must be at least 1, got 0"),
    "depth": (lambda: models.UNet(3, 2, depth=0), "depth must be at least 1, got 0"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refuses(name) -> None:
    call, message = REFUSED[name]
    with pytest.raises(tn.Refused, match=message):
        call()


def test_refuses_images() -> None:
    ours = models.UNet(3, 2, base_channels=2, depth=2)
    for shape in ((1, 4, 8, 8), (1, 3, 3, 8)):
        with pytest.raises(tn.Refused, match=r"images must be \(N, 3, H, W\) with H and W at least 4, got shape"):
            ours(tn.from_torch(randn(*shape)))
    with pytest.raises(tn.Refused, match=r"must be a tritonnet Tensor, got ndarray; use tn\.from_numpy"):
        ours(randn(1, 3, 8, 8).numpy(force=True))
    with pytest.raises(tn.Refused, match="images must be"):
        ours(tn.from_torch(randn(3, 8)))
