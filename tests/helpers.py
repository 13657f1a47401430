"""What the kernel and op tests share: inputs, guard cells, comparisons with float64, directional derivatives."""

from collections.abc import Callable, Sequence

import torch

import tritonnet as tn
from tritonnet.kernels import runtime

DEVICE = runtime.device()
GPU = DEVICE.type == "cuda"
DTYPES = [torch.float32, torch.bfloat16, torch.float16] if GPU else [torch.float32]
EPS = {torch.float32: 2.0**-24, torch.bfloat16: 2.0**-8, torch.float16: 2.0**-11}  # half a unit in the last place

# what rounding adds to numbers near 0: half the smallest float16; nothing to speak of in the others
TINY = {torch.float32: 1e-12, torch.bfloat16: 1e-12, torch.float16: 2.0**-25}


def randn(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> torch.Tensor:
    """Normal numbers on the process's device, the same for the same seed."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator).to(dtype).to(DEVICE)


def pitched(x: torch.Tensor, extra: int = 3) -> torch.Tensor:
    """The same (N, H, W, C) values as a channel slice of a wider buffer whose other channels are NaN."""
    before = extra // 2
    wide = torch.full((*x.shape[:3], x.shape[3] + extra), float("nan"), dtype=x.dtype, device=x.device)
    view = wide[..., before : before + x.shape[3]]
    view.copy_(x)
    return view


def gap_untouched(view: torch.Tensor) -> bool:
    """Whether the other channels of a `pitched` buffer still hold NaN, all of them."""
    base = view._base
    assert base is not None
    n, h, w, c = view.shape
    wide = base.as_strided((n, h, w, view.stride(2)), (h * w * view.stride(2), w * view.stride(2), view.stride(2), 1))
    return int(wide.isnan().sum()) - int(view.isnan().sum()) == n * h * w * (view.stride(2) - c)


def to64(x: torch.Tensor) -> torch.Tensor:
    """A float64 copy on the CPU."""
    return x.detach().cpu().double()


def nchw(x: torch.Tensor) -> torch.Tensor:
    """An (N, H, W, C) buffer as torch's logical (N, C, H, W), float64 on the CPU."""
    return to64(x).permute(0, 3, 1, 2)


def nhwc(x: torch.Tensor) -> torch.Tensor:
    """A logical (N, C, H, W) tensor as an (N, H, W, C) buffer's shape."""
    return x.permute(0, 2, 3, 1)


def error(actual: torch.Tensor, expected: torch.Tensor) -> float:
    """||actual - expected|| / ||expected|| in float64; the plain norm where the expected value is zero."""
    a, e = to64(actual), to64(expected)
    assert a.shape == e.shape, f"shape {tuple(a.shape)}, expected {tuple(e.shape)}"
    if e.numel() == 0:
        return 0.0
    size = float(e.norm())
    return float((a - e).norm()) / (size if size > 0 else 1.0)


def assert_close(actual: torch.Tensor, expected: torch.Tensor, rtol: float, atol: float = 0.0, what: str = "") -> None:
    """The whole differs by at most `rtol` in norm, and no element by more than 20 rtol of the largest; `atol` is an element's."""
    relative, size = error(actual, expected), float(to64(expected).norm()) or 1.0
    allowed = rtol + atol * expected.numel() ** 0.5 / size
    assert relative <= allowed, f"{what}: relative error {relative:.3g}, allowed {allowed:.3g}"  # NaN fails too
    if expected.numel():
        worst = float((to64(actual) - to64(expected)).abs().max())
        bound = 20 * rtol * float(to64(expected).abs().max()) + atol
        assert worst <= bound, f"{what}: worst element off by {worst:.3g}, allowed {bound:.3g}"


def check_gradients(
    op: Callable[..., tn.Tensor],
    inputs: Sequence[torch.Tensor],
    *,
    seed: int = 0,
    eps: float = 1e-2,
    rtol: float = 2e-2,
) -> None:
    """Compare backward with a central difference along random directions of all inputs at once.

    `inputs` are torch tensors of logical shape, float32. The output is projected on a random direction, so one number is
    differentiated: d/dt <v, op(x + t u)> against <backward(v), u>. `op` must be smooth along the way.
    """
    tensors = [tn.from_torch(x.contiguous(), requires_grad=True) for x in inputs]
    out = op(*tensors)
    v = randn(*out.shape, seed=seed + 1)
    out.backward(tn.from_torch(v))
    directions = [randn(*x.shape, seed=seed + 2 + i) for i, x in enumerate(inputs)]
    backward = 0.0
    for t, u in zip(tensors, directions, strict=True):
        assert t.grad is not None
        backward += float((to64(t.grad.torch()) * to64(u)).sum())
    values = []
    for sign in (1, -1):
        moved = [tn.from_torch((x + sign * eps * u).contiguous()) for x, u in zip(inputs, directions, strict=True)]
        values.append(float((to64(op(*moved).torch()) * to64(v)).sum()))
    numeric = (values[0] - values[1]) / (2 * eps)
    scale = max(abs(numeric), abs(backward), 1e-3)
    assert abs(numeric - backward) <= rtol * scale, (
        f"directional derivative {numeric:.6g}, backward gives {backward:.6g}"
    )
