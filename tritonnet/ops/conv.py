"""2-D convolution and transposed convolution. The formulas stand in `tritonnet.kernels.conv2d`."""

from collections.abc import Callable
from functools import partial
from numbers import Integral
from typing import Any

import torch

from tritonnet.autograd import (
    Context,
    Function,
    Node,
    Parameter,
    Tensor,
    check_tensors,
    is_grad_enabled,
    remade,
    remakes,
    storage_dtype,
    uses_tf32,
)
from tritonnet.kernels.batch_norm import Norm, Running, batch_norm_bwd, batch_norm_fwd, batch_norm_relu_scaled
from tritonnet.kernels.conv2d import (
    conv2d_dgrad,
    conv2d_fwd,
    conv2d_wgrad,
    dgrad_scales,
    fwd_scales,
    same_padding,
    transposed_size,
)
from tritonnet.kernels.head import head_bwd, head_fits, head_fwd
from tritonnet.kernels.runtime import beside, refuse
from tritonnet.kernels.scaled import Operand, Scaled, scaled
from tritonnet.kernels.sum import pixel_sum
from tritonnet.kernels.unfold import unfolded_fwd, unfolded_wgrad, unfolds
from tritonnet.ops.norm import Moments, check, statistics
from tritonnet.ops.shape import to

__all__ = ["computed", "conv2d", "conv2d_batch_norm_relu", "conv2d_moments", "conv_transpose2d", "pair"]

Buffer = torch.Tensor
Size = int | tuple[int, int]


def _like(x: Buffer, other: Operand | None) -> Operand:
    """A float32 buffer as what it is multiplied with: scaled, or as it is."""
    return scaled(x) if isinstance(other, Scaled) else x


def _half(weight: Tensor) -> Scaled:
    return weight.scaled() if isinstance(weight, Parameter) else scaled(weight.data)


def _weight_gradient(dy: Operand, x: Operand, launcher: Callable[..., Buffer] = conv2d_wgrad, **window: Any) -> Buffer:
    """`conv2d_wgrad` or another launcher of it, beside what follows: nothing waits for it before the optimizer."""
    read = [b for operand in (dy, x) for b in (operand if isinstance(operand, Scaled) else [operand])]
    with beside(*read) as written:
        dw = launcher(dy, x, **window)
        written.append(dw)
    return dw


def _bias_gradient(dy: Buffer) -> Buffer:
    """The sum over pixels, for which nothing waits either."""
    with beside(dy) as written:
        db = pixel_sum(dy)
        written.append(db)
    return db


class Conv2dFunction(Function):
    @staticmethod
    def forward(
        ctx: Context, x: Buffer, w: Buffer, bias: Buffer | None, *, half: Scaled | None, source: Any = None, **window: Any
    ) -> Any:  # fmt: skip
        ctx.window = {key: window[key] for key in ("stride", "dilation", "tf32")}
        ctx.size, ctx.shape, ctx.pad = tuple(x.shape[1:3]), w.shape, window["padding"][::2]
        steps = {key: window[key] for key in ("stride", "padding", "dilation")}
        image, weight = _like(x, half), half or w
        ctx.patches = half is None and unfolds(x, w, **steps)
        ctx.source = None if ctx.patches else source  # the edge of x, where that is not kept
        if ctx.patches:
            y, moments, image = unfolded_fwd(x, w, bias, **window)
        else:
            y, moments = conv2d_fwd(image, weight, bias, **window)
        ctx.save(image if ctx.source is None else None, weight)
        return (y, *moments) if moments is not None else (y, None) if window["statistics"] else y

    @staticmethod
    def backward(ctx: Context, dy: Buffer, *_: object) -> tuple[Buffer | None, ...]:
        x, w = ctx.saved
        if ctx.source is not None and ctx.needs[1]:
            x = _like(remade(ctx.source), w)
        gradient, kernel = _like(dy, w), tuple(ctx.shape[1:3])
        wgrad: Any = partial(unfolded_wgrad, channels=ctx.shape[3]) if ctx.patches else conv2d_wgrad
        if ctx.needs[0]:  # else nothing follows
            wgrad = partial(_weight_gradient, launcher=wgrad)
        dw = wgrad(gradient, x, kernel_size=kernel, pad=ctx.pad, **ctx.window) if ctx.needs[1] else None
        del x  # before dx takes memory
        dx = conv2d_dgrad(gradient, w, input_size=ctx.size, pad=ctx.pad, **ctx.window)[0] if ctx.needs[0] else None
        return dx, dw, _bias_gradient(dy) if ctx.needs[2] else None


class ConvTranspose2dFunction(Function):
    @staticmethod
    def forward(
        ctx: Context, x: Buffer, w: Buffer, bias: Buffer | None, *, half: Scaled | None, input_size: Any, out: Any, **window: Any
    ) -> Buffer:  # fmt: skip
        ctx.window, ctx.size, ctx.kernel = window, tuple(x.shape[1:3]), tuple(w.shape[1:3])
        image, weight = _like(x, half), half or w
        ctx.save(image, weight, bias)
        ctx.input_size = input_size
        return conv2d_dgrad(image, weight, bias, input_size=input_size, out=out, **window)[0]

    @staticmethod
    def again(node: Node, out: Buffer | None = None) -> Buffer:
        """Another launch of the same."""
        ctx = node.context
        return conv2d_dgrad(*ctx.saved, input_size=ctx.input_size, out=out, **ctx.window)[0]

    @staticmethod
    def backward(ctx: Context, dy: Buffer) -> tuple[Buffer | None, ...]:
        x, w, _ = ctx.saved
        (top, left), (sh, sw), (dh, dw_) = ctx.window["pad"], ctx.window["stride"], ctx.window["dilation"]
        # what must lie below and to the right of dy for the convolution to give exactly x's size
        bottom = (ctx.size[0] - 1) * sh + dh * (ctx.kernel[0] - 1) + 1 - dy.shape[1] - top
        right = (ctx.size[1] - 1) * sw + dw_ * (ctx.kernel[1] - 1) + 1 - dy.shape[2] - left
        gradient = _like(dy, w)
        window = {key: ctx.window[key] for key in ("stride", "dilation", "tf32")}
        dw = _weight_gradient(x, gradient, kernel_size=ctx.kernel, **ctx.window) if ctx.needs[1] else None
        dx = conv2d_fwd(gradient, w, padding=(top, bottom, left, right), **window)[0] if ctx.needs[0] else None
        return dx, dw, _bias_gradient(dy) if ctx.needs[2] else None


def _between(x: Buffer, norm: Norm, other: Operand | None, training: bool) -> Operand:
    """The image between batch norm and convolution, as what it is multiplied with."""
    if training and isinstance(other, Scaled):
        return batch_norm_relu_scaled(x, norm.mean, norm.var, norm.w, norm.b, eps=norm.eps)
    return _like(batch_norm_fwd(x, norm.mean, norm.var, norm.w, norm.b, eps=norm.eps, relu=True), other)


class BatchNormReluConv2dFunction(Function):
    @staticmethod
    def forward(
        ctx: Context, x: Buffer, scale: Buffer | None, shift: Buffer | None, w: Buffer, bias: Buffer | None, *,
        half: Scaled | None, running: Running | None, training: bool, moments: Moments | None, eps: float, recompute: bool,
        **window: Any,
    ) -> Any:  # fmt: skip
        mean, var = statistics(x, running, training, moments, any(ctx.needs))
        ctx.norm, ctx.training = Norm(mean, var, scale, shift, eps), training
        pixelwise = tuple(w.shape[1:3]) == window["stride"] == (1, 1) and not any(window["padding"])
        ctx.head = pixelwise and head_fits(w.shape[3], w.shape[0])
        if ctx.head:
            ctx.save(x, w)
            ctx.tf32 = window["tf32"]
            return head_fwd(x, ctx.norm, w, bias, tf32=ctx.tf32), None
        ctx.window = {key: window[key] for key in ("stride", "dilation", "tf32")}
        ctx.size, ctx.kernel, ctx.pad = tuple(x.shape[1:3]), tuple(w.shape[1:3]), window["padding"][::2]
        image, weight = _between(x, ctx.norm, half, training), half or w
        ctx.save(x, None if recompute else image, weight)
        y, moments = conv2d_fwd(image, weight, bias, **window)
        return (y, *moments) if moments is not None else (y, None)

    @staticmethod
    def backward(ctx: Context, dy: Buffer, *_: object) -> tuple[Buffer | None, ...]:
        gradients: tuple[Buffer | None, ...]
        if ctx.head:
            x, w = ctx.saved
            gradients = head_bwd(dy, x, ctx.norm, w, tf32=ctx.tf32, training=ctx.training)
        else:
            x, between, w = ctx.saved
            norm, gradient = ctx.norm, _like(dy, w)
            if between is None:
                between = _between(x, norm, w, ctx.training)
            window = {"pad": ctx.pad, **ctx.window}
            dw = _weight_gradient(gradient, between, kernel_size=ctx.kernel, **window) if ctx.needs[3] else None
            del between  # before its gradient takes memory
            dx, sums = conv2d_dgrad(gradient, w, input_size=ctx.size, norm=norm, z=x, **window)
            first = batch_norm_bwd(dx, x, *norm.buffers, eps=norm.eps, relu=True, training=ctx.training, sums=sums)
            gradients = (*first, dw, _bias_gradient(dy) if ctx.needs[4] else None)
        return tuple(g if need else None for g, need in zip(gradients, ctx.needs, strict=True))


def pair(op: str, name: str, value: Any, least: int) -> tuple[int, int]:
    """(vertical, horizontal) from one integer or two, each at least `least`."""
    both = (value, value) if isinstance(value, Integral) else tuple(value) if isinstance(value, tuple | list) else ()
    if len(both) != 2 or not all(isinstance(v, Integral) and int(v) >= least for v in both):
        refuse(op, f"{name} must be an int or a pair of ints, at least {least}, got {value!r}")
    return int(both[0]), int(both[1])


def computed(op: str, input: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Input and weight in the dtype that products are computed in; what is no Tensor of floats is refused."""
    check_tensors(op, input=input, weight=weight)
    for name, t in (("input", input), ("weight", weight)):
        if not t.dtype.is_floating_point:
            refuse(op, f"{name} must be floating point, got {t.dtype}; use .to(torch.float32)")
    dtype = storage_dtype()
    x = input if input.dtype == dtype else to(input, dtype)
    if isinstance(weight, Parameter):
        return x, weight.in_dtype(dtype)
    return x, weight if weight.dtype == dtype else to(weight, dtype)


def _images(op: str, input: Tensor, weight: Tensor, groups: int) -> tuple[Tensor, Tensor]:
    """The same of rank 4."""
    if groups != 1:
        refuse(op, f"groups must be 1 (others are not there yet), got {groups}")
    x, w = computed(op, input, weight)
    for name, t in (("input", x), ("weight", w)):
        if t.ndim != 4:
            refuse(op, f"{name} must have 4 dimensions, got shape {t.shape}")
    return x, w


def _padding(
    op: str, padding: Any, weight: Tensor, stride: tuple[int, int], dilation: tuple[int, int]
) -> tuple[int, int, int, int]:
    if padding == "valid":
        return 0, 0, 0, 0
    if padding == "same":
        if stride != (1, 1):
            refuse(op, f"padding='same' needs stride 1, got stride {stride}")
        top, bottom = same_padding(weight.shape[2], dilation[0])
        left, right = same_padding(weight.shape[3], dilation[1])
        return top, bottom, left, right
    if isinstance(padding, str):
        refuse(op, f"padding must be an int, a pair of ints, 'same' or 'valid', got {padding!r}")
    h, w = pair(op, "padding", padding, 0)
    return h, h, w, w


def _convolve(
    op: str,
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Any,
    padding: Any,
    dilation: Any,
    groups: int,
    *,
    function: type[Function] = Conv2dFunction,
    before: tuple[Tensor | None, ...] = (),
    **more: Any,
) -> Any:
    """Apply `function` to the input, what comes `before` the weights, the weights and the bias."""
    x, w = _images(op, input, weight, groups)
    steps, spread = pair(op, "stride", stride, 1), pair(op, "dilation", dilation, 1)
    pads = _padding(op, padding, weight, steps, spread)
    window: dict[str, Any] = {"stride": steps, "padding": pads, "dilation": spread, "tf32": uses_tf32()}
    half = _half(w) if fwd_scales(x.data, w.data, **window, **more) else None
    return function.apply(x, *before, w, bias, half=half, **window, **more)


def conv2d(
    input: Tensor, weight: Tensor, bias: Tensor | None = None, stride: Size = 1, padding: Size | str = 0, dilation: Size = 1,
    groups: int = 1, *, out: Buffer | None = None,
) -> Tensor:  # fmt: skip
    """Convolve `input` with `weight`, as `torch.nn.functional.conv2d`.

    Args:
        input: (N, C, H, W).
        weight: (K, C, R, S).
        bias: (K,) or None.
        stride, dilation: pixels, at least 1; one number or (vertical, horizontal).
        padding: zeros on each side, pixels, at least 0; or 'same' (stride 1 only) or 'valid'.
        groups: must be 1.
        out: a buffer (N, P, Q, K) to write into, such as one half of `ops.cat.wide`.

    Returns:
        (N, K, P, Q), in the dtype of the precision in force.

    Raises:
        Refused: shapes, dtypes or devices that do not go together.
    """
    return _convolve(  # type: ignore[no-any-return]
        "conv2d", input, weight, bias, stride, padding, dilation, groups, out=out, statistics=False
    )


def conv2d_moments(
    input: Tensor, weight: Tensor, bias: Tensor | None = None, stride: Size = 1, padding: Size | str = 0, dilation: Size = 1,
    groups: int = 1, *, recompute: bool = False,
) -> tuple[Tensor, tuple[Buffer, Buffer, Buffer] | None]:  # fmt: skip
    """`conv2d`, and what batch norm needs of the result: each tile's (count, mean, M2), or None where no kernel gives them.

    Hand the second value to `batch_norm` or `batch_norm_relu` as `moments`; it saves a pass over the image.

    Args:
        recompute: make the input again in the backward, from what the ops before it keep, where they can, instead of keeping
            it: more launches, the same bits.
        others: as those of `conv2d`.
    """
    source = input.edge() if recompute and is_grad_enabled() and input.dtype == storage_dtype() else None
    y, *moments = _convolve(
        "conv2d", input, weight, bias, stride, padding, dilation, groups, out=None, statistics=True,
        source=source if remakes(source) else None,
    )  # fmt: skip
    return y, None if moments[0] is None else tuple(m.data for m in moments)


def conv2d_batch_norm_relu(
    input: Tensor, weight: Tensor, bias: Tensor | None = None, stride: Size = 1, padding: Size | str = 0, dilation: Size = 1,
    groups: int = 1, *, norm: Norm, out: Buffer | None = None,
) -> Tensor:  # fmt: skip
    """`relu(batch_norm(conv2d(...)))` by given statistics in the convolution's own pass: for evaluation, under `no_grad`.

    Other arguments, result and refusals as `conv2d`; the image between is not rounded to 16 bits.
    """
    op = "conv2d_batch_norm_relu"
    if is_grad_enabled():
        refuse(op, "it has no gradient; call it within tn.no_grad()")
    return _convolve(  # type: ignore[no-any-return]
        op, input, weight, bias, stride, padding, dilation, groups, norm=norm, out=out, statistics=False
    )


def batch_norm_relu_conv2d(
    input: Tensor, norm: dict[str, Any], weight: Tensor, bias: Tensor | None = None, stride: Size = 1,
    padding: Size | str = 0, dilation: Size = 1, groups: int = 1, *, moments: Moments | None = None, recompute: bool = False,
) -> tuple[Tensor, Moments | None]:  # fmt: skip
    """`conv2d_moments(batch_norm_relu(input, **norm, moments=moments), weight, ...)` as one op.

    Its backward lets the convolution's input gradient sum what the batch norm needs of it, a pass over two images less.
    A 1x1 convolution to few channels is a network's head, whose kernels (`tritonnet.kernels.head`) keep no image between.

    Args:
        norm: the arguments of `batch_norm` beside its input.
        recompute: make the image between again in the backward instead of keeping it: one more pass over the input, the
            same bits.
        others: as those of `conv2d_moments`; `moments` are the input's.
    """
    op = "batch_norm_relu_conv2d"
    given = {**norm}
    scale, shift, training, eps = (given.pop(name) for name in ("weight", "bias", "training", "eps"))
    running = check(op, input, training=training, eps=eps, **given)
    y, *parts = _convolve(
        op, input, weight, bias, stride, padding, dilation, groups, statistics=True, function=BatchNormReluConv2dFunction,
        before=(scale, shift), running=running, training=training, moments=moments, eps=eps,
        recompute=recompute,
    )  # fmt: skip
    return y, None if parts[0] is None else tuple(part.data for part in parts)


def conv_transpose2d(
    input: Tensor, weight: Tensor, bias: Tensor | None = None, stride: Size = 1, padding: Size = 0, output_padding: Size = 0,
    groups: int = 1, dilation: Size = 1, *, out: Buffer | None = None,
) -> Tensor:  # fmt: skip
    """The transposed convolution of `input` with `weight`, as `torch.nn.functional.conv_transpose2d`.

    Args:
        input: (N, C_in, P, Q).
        weight: (C_in, C_out, R, S).
        bias: (C_out,) or None.
        stride, dilation: pixels, at least 1.
        padding: pixels taken off each side, at least 0.
        output_padding: pixels added below and to the right; less than stride or dilation.
        groups: must be 1.
        out: a buffer (N, H, W, C_out) to write into.

    Returns:
        (N, C_out, H, W) with H = (P - 1) * stride - 2 * padding + dilation * (R - 1) + output_padding + 1.

    Raises:
        Refused: shapes, dtypes or devices that do not go together.
    """
    op = "conv_transpose2d"
    x, w = _images(op, input, weight, groups)
    steps, spread = pair(op, "stride", stride, 1), pair(op, "dilation", dilation, 1)
    pad, more = pair(op, "padding", padding, 0), pair(op, "output_padding", output_padding, 0)
    if any(m >= max(s, d) for m, s, d in zip(more, steps, spread, strict=True)):
        refuse(op, f"output_padding must be less than stride or dilation, got {more} with {steps} and {spread}")
    if x.shape[1] != weight.shape[0]:
        refuse(op, f"input must have the weight's {weight.shape[0]} channels, got {x.shape[1]}")
    size = tuple(
        transposed_size(x.shape[2 + i], weight.shape[2 + i], steps[i], pad[i], more[i], spread[i]) for i in range(2)
    )
    if min(size) < 1:
        refuse(op, f"the output must have at least one pixel, got {size[0]}x{size[1]}; lower padding")
    window: dict[str, Any] = {
        "input_size": size,
        "stride": steps,
        "pad": pad,
        "dilation": spread,
        "tf32": uses_tf32(),
        "out": out,
    }
    half = _half(w) if dgrad_scales(x.data, w.data, **window) else None
    return ConvTranspose2dFunction.apply(x, w, bias, half=half, **window)  # type: ignore[no-any-return]
