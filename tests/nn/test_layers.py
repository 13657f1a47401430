"""Layers and losses beside torch's: the same arguments, values and gradients in float64, in training and evaluation."""

import numpy as np
import pytest
import torch
from helpers import assert_close, randn, to64

import tritonnet as tn
from tritonnet import nn

# name: (class, arguments, keyword arguments, input shape)
CASES = {
    "conv": ("Conv2d", (3, 5, 3), {"padding": 1}, (2, 3, 7, 6)),
    "conv-stride-dilation": ("Conv2d", (4, 3, (3, 2)), {"stride": 2, "dilation": (1, 2), "bias": False}, (1, 4, 9, 8)),
    "conv-same": ("Conv2d", (2, 3, (5, 3)), {"padding": "same", "dilation": 2}, (1, 2, 5, 7)),
    "conv-transpose-unet": ("ConvTranspose2d", (6, 3, 2), {"stride": 2}, (2, 6, 4, 3)),
    "conv-transpose-poster": (
        "ConvTranspose2d", (4, 4, 3), {"stride": 2, "padding": 1, "output_padding": 1, "bias": False}, (1, 4, 5, 4)
    ),
    "batch-norm": ("BatchNorm2d", (5,), {}, (3, 5, 4, 7)),
    "batch-norm-plain": ("BatchNorm2d", (3,), {"affine": False, "momentum": 0.3, "eps": 1e-3}, (2, 3, 5, 5)),
    "batch-norm-untracked": ("BatchNorm2d", (3,), {"track_running_stats": False}, (2, 3, 5, 5)),
    "batch-norm-cumulative": ("BatchNorm2d", (3,), {"momentum": None}, (2, 3, 5, 5)),
    "relu": ("ReLU", (), {}, (1, 3, 4, 5)),
    "sigmoid": ("Sigmoid", (), {}, (1, 3, 4, 5)),
    "tanh": ("Tanh", (), {}, (1, 3, 4, 5)),
    "softmax": ("Softmax", (1,), {}, (2, 3, 4, 5)),
    "log-softmax": ("LogSoftmax", (1,), {}, (2, 3, 4, 5)),
    "linear": ("Linear", (6, 5), {}, (4, 6)),
    "linear-images": ("Linear", (5, 3, False), {}, (2, 3, 4, 5)),
    "max-pool": ("MaxPool2d", (2,), {}, (1, 3, 7, 6)),
    "max-pool-overlap": ("MaxPool2d", (3,), {"stride": 2, "padding": 1}, (1, 3, 7, 6)),
    "avg-pool": ("AvgPool2d", (2,), {}, (1, 3, 7, 6)),
    "avg-pool-overlap": ("AvgPool2d", (3, 2), {"padding": 1}, (1, 3, 7, 6)),
    "avg-pool-inside": ("AvgPool2d", (3, 2), {"padding": 1, "count_include_pad": False}, (1, 3, 7, 6)),
    "upsample": ("Upsample", (), {"scale_factor": 2, "mode": "bilinear", "align_corners": True}, (1, 3, 4, 5)),
    "upsample-nearest": ("Upsample", (), {"scale_factor": (3, 2)}, (1, 3, 4, 5)),
    "upsample-size": ("Upsample", (), {"size": (7, 5), "mode": "bilinear"}, (1, 3, 4, 3)),
    "flatten": ("Flatten", (), {}, (2, 3, 4, 5)),
    "identity": ("Identity", (54,), {"unused": 1}, (2, 3)),
}  # fmt: skip


def pair(name: str):
    """Our layer and torch's in float64 with the same values."""
    kind, args, kwargs, shape = CASES[name]
    theirs = getattr(torch.nn, kind)(*args, **kwargs).double()
    ours = getattr(nn, kind)(*args, **kwargs)
    with torch.no_grad():
        for i, parameter in enumerate(theirs.parameters()):
            parameter.copy_(to64(randn(*parameter.shape, seed=10 + i)))
    ours.load_state_dict(theirs.state_dict())
    return ours, theirs, shape


@pytest.mark.parametrize("name", CASES)
def test_like_torch(name) -> None:
    ours, theirs, shape = pair(name)
    for step, training in enumerate((True, True, False)):
        ours.train(training), theirs.train(training)
        ours.zero_grad(), theirs.zero_grad()
        host = to64(randn(*shape, seed=step))
        x = tn.from_torch(host.float().to(tn.tensor(0).device), requires_grad=True)
        wanted = host.requires_grad_()
        y, expected = ours(x), theirs(wanted)
        assert_close(y.torch(), expected.detach(), 1e-5, what="forward")
        dy = randn(*y.shape, seed=20 + step)
        y.backward(tn.from_torch(dy.contiguous()))
        expected.backward(to64(dy))
        assert_close(x.grad.torch(), wanted.grad, 1e-5, what="input gradient")
        for (key, mine), other in zip(ours.named_parameters(), theirs.parameters(), strict=True):
            assert_close(mine.grad.torch(), other.grad, 1e-5, what=key)
        for key, value in theirs.state_dict().items():
            assert_close(ours.state_dict()[key].torch(), value, 1e-5, atol=1e-6, what=key)


@pytest.mark.parametrize("name", [name for name in CASES if CASES[name][0] != "BatchNorm2d"])
def test_repr_is_torchs(name) -> None:
    kind, args, kwargs, _ = CASES[name]
    assert repr(getattr(nn, kind)(*args, **kwargs)) == repr(getattr(torch.nn, kind)(*args, **kwargs))


def test_repr_of_batch_norm() -> None:  # written out: newer torch adds arguments here
    text = "BatchNorm2d(4, eps=1e-05, momentum=0.1, affine=True, track_running_stats=True)"
    assert repr(nn.BatchNorm2d(4)) == text


def test_batch_norm_counts_batches_in_training_only() -> None:
    norm = nn.BatchNorm2d(2)
    x = tn.from_torch(randn(2, 2, 3, 3))
    norm(x), norm(x), norm.eval()(x)
    assert norm.num_batches_tracked.item() == 2


def test_batch_norm_reset() -> None:
    norm = nn.BatchNorm2d(2)
    fresh = {key: value.numpy() for key, value in norm.state_dict().items()}
    norm(tn.from_torch(randn(2, 2, 3, 3)))
    norm.reset_parameters()
    for key, value in norm.state_dict().items():
        assert np.array_equal(value.numpy(), fresh[key]), key


def test_cross_entropy_loss() -> None:
    logits, weight = randn(2, 3, 4, 5), torch.tensor([0.2, 1.0, 3.0])
    target = torch.randint(0, 3, (2, 4, 5), generator=torch.Generator().manual_seed(0))
    target[0, 0] = 255
    device = logits.device
    for reduction in ("mean", "sum", "none"):
        arguments = {"ignore_index": 255, "reduction": reduction}
        ours = nn.CrossEntropyLoss(tn.from_torch(weight.to(device)), **arguments)
        expected = torch.nn.CrossEntropyLoss(weight.double(), **arguments)(to64(logits), target)
        assert_close(
            ours(tn.from_torch(logits), tn.from_torch(target.to(device))).torch(), expected, 1e-5, what=reduction
        )
    assert list(ours.state_dict()) == ["weight"]


def test_bce_with_logits_loss() -> None:
    logits, target = randn(2, 1, 4, 5), (randn(2, 1, 4, 5, seed=1) > 0).float()
    for reduction in ("mean", "sum", "none"):
        ours = nn.BCEWithLogitsLoss(reduction=reduction)
        expected = torch.nn.BCEWithLogitsLoss(reduction=reduction)(to64(logits), to64(target))
        assert_close(ours(tn.from_torch(logits), tn.from_torch(target)).torch(), expected, 1e-5, what=reduction)


REFUSED = {
    "groups": (lambda: nn.Conv2d(2, 2, 1, groups=2), r"\[Conv2d\] groups must be 1, got 2"),
    "padding_mode": (lambda: nn.Conv2d(2, 2, 1, padding_mode="reflect"), "padding_mode must be 'zeros', got 'reflect'"),
    "padding": (lambda: nn.Conv2d(2, 2, 1, padding="full"), "padding must be .*, got 'full'"),
    "channels": (lambda: nn.Conv2d(0, 2, 1), "in_channels must be an integer, at least 1, got 0"),
    "kernel": (
        lambda: nn.Conv2d(1, 2, (3, 3, 3)),
        r"kernel_size must be an int or a pair of ints, at least 1, got \(3, 3",
    ),
    "stride": (lambda: nn.Conv2d(1, 2, 3, stride=0), "stride must be an int or a pair of ints, at least 1, got 0"),
    "same": (lambda: nn.Conv2d(1, 2, 3, 2, "same"), r"padding='same' needs stride 1, got stride \(2, 2\)"),
    "dtype": (lambda: nn.Conv2d(2, 2, 1, dtype=torch.float16), "dtype must be torch.float32, got torch.float16"),
    "device": (lambda: nn.BatchNorm2d(2, device="xpu"), "the device of this process"),
    "transposed groups": (lambda: nn.ConvTranspose2d(2, 2, 1, groups=2), r"\[ConvTranspose2d\] groups must be 1"),
    "transposed same": (lambda: nn.ConvTranspose2d(2, 2, 1, padding="same"), "padding must be .*, got 'same'"),
    "num_features": (lambda: nn.BatchNorm2d(0), "num_features must be an integer, at least 1, got 0"),
    "inplace": (lambda: nn.ReLU(inplace=True), "inplace must be False, got True"),
    "ceil_mode": (lambda: nn.MaxPool2d(2, ceil_mode=True), "ceil_mode must be False, got True"),
    "indices": (lambda: nn.MaxPool2d(2, return_indices=True), "return_indices must be False"),
    "pool dilation": (lambda: nn.MaxPool2d(2, dilation=2), r"dilation must be \(1, 1\), got \(2, 2\)"),
    "divisor": (lambda: nn.AvgPool2d(2, divisor_override=3), "divisor_override must be None, got 3"),
    "mode": (lambda: nn.Upsample(scale_factor=2, mode="bicubic"), "mode must be nearest or bilinear, got 'bicubic'"),
    "smoothing": (lambda: nn.CrossEntropyLoss(label_smoothing=0.1), "label_smoothing must be 0.0, got 0.1"),
    "reduce": (lambda: nn.BCEWithLogitsLoss(reduce=True), "reduce must be None, got True"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refuses(name) -> None:
    call, message = REFUSED[name]
    with pytest.raises(tn.Refused, match=message):
        call()


def test_running_statistics_switched_off_stay_as_they_are() -> None:
    ours, theirs = nn.BatchNorm2d(2), torch.nn.BatchNorm2d(2)
    ours.track_running_stats = theirs.track_running_stats = False
    x = randn(2, 2, 3, 3).cpu()
    for training in (True, False):
        y = ours.train(training)(tn.from_torch(x.contiguous().to(tn.tensor(0).device)))
        assert_close(y.torch(), theirs.train(training)(x), 1e-5)
    assert (ours.running_mean.numpy() == 0).all()
    assert int(ours.num_batches_tracked) == 0


def test_evaluation_differentiates_by_the_statistics_it_used() -> None:
    norm, x = nn.BatchNorm2d(2, eps=0), tn.rand(2, 2, 3, 3, requires_grad=True)
    y = norm.eval()(x)
    norm.train()(tn.rand(2, 2, 3, 3))  # changes the running statistics
    y.sum().backward()
    assert (x.grad.numpy() == 1).all()
