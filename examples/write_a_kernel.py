"""Write a Triton kernel and its gradient, make them an operation of the framework, and check the gradient.

    y = x * s,    dx = dy * (s + y * (1 - s)),    s = 1 / (1 + exp(-x))        (the SiLU)

It works on a GPU and, without one, on Triton's interpreter.
"""

import tritonnet as tn  # before triton: it chooses between the compiler and the interpreter
from tritonnet.kernels.runtime import begin, cdiv, empty, launch

# isort: split
import torch
import triton
import triton.language as tl


@triton.jit
def _silu_fwd_kernel(x_ptr, y_ptr, n, BLOCK: tl.constexpr):
    begin()  # wait for the launch before
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    x = tl.load(x_ptr + at, mask=at < n, other=0.0).to(tl.float32)
    tl.store(y_ptr + at, (x / (1.0 + tl.exp(-x))).to(y_ptr.dtype.element_ty), mask=at < n)


@triton.jit
def _silu_bwd_kernel(dy_ptr, x_ptr, dx_ptr, n, BLOCK: tl.constexpr):
    begin()
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    dy = tl.load(dy_ptr + at, mask=at < n, other=0.0).to(tl.float32)
    x = tl.load(x_ptr + at, mask=at < n, other=0.0).to(tl.float32)
    s = 1.0 / (1.0 + tl.exp(-x))
    tl.store(dx_ptr + at, (dy * (s + x * s * (1.0 - s))).to(dx_ptr.dtype.element_ty), mask=at < n)


class SiLUFunction(tn.Function):
    """Forward above backward; both see buffers, not Tensors."""

    @staticmethod
    def forward(ctx, x):
        y = empty(tuple(x.shape), x.dtype)
        launch(_silu_fwd_kernel, (cdiv(x.numel(), 1024),), x, y, x.numel(), BLOCK=1024)
        ctx.save(x)
        return y

    @staticmethod
    def backward(ctx, dy):
        (x,) = ctx.saved
        dx = empty(tuple(x.shape), x.dtype)
        launch(_silu_bwd_kernel, (cdiv(x.numel(), 1024),), dy, x, dx, x.numel(), BLOCK=1024)
        return dx


def silu(x: tn.Tensor) -> tn.Tensor:
    """x / (1 + exp(-x)), element by element; gradients flow through it."""
    return SiLUFunction.apply(x)


values = [-3.0, -1.0, -0.25, 0.0, 0.5, 2.0]
x = tn.tensor(values, requires_grad=True)
y = silu(x)
y.backward(tn.tensor([1.0] * len(values)))

step = 1e-2
above, below = (silu(tn.tensor([v + sign * step for v in values])).numpy() for sign in (1, -1))
numeric = (above - below) / (2 * step)
error = float(abs(numeric - x.grad.numpy()).max())
print("y        ", y.numpy())
print("gradient ", x.grad.numpy())
print("numeric  ", numeric)
print(f"largest difference {error:.1e} on {torch.device(x.device).type}")
assert error < 1e-3
