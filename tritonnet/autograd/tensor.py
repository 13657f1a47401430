"""Tensor: a buffer, and where it came from.

Shapes are torch's: a rank-4 Tensor is logically (N, C, H, W) over an (N, H, W, C) buffer (see `tritonnet.kernels.runtime`);
other ranks are row-major. A Tensor's values never change, except a Parameter's, by its optimizer or by loading weights.
Methods and operators that compute are ops; `tritonnet.ops` registers them here, since this layer knows no op.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch

from tritonnet.autograd import function
from tritonnet.kernels import fault, runtime
from tritonnet.kernels.convert import cast, nchw_to_nhwc, nhwc_to_nchw
from tritonnet.kernels.fill import fill
from tritonnet.kernels.runtime import Refused, logical, refuse

__all__ = [
    "Tensor", "as_tensor", "check_device", "check_tensors", "from_numpy", "from_torch", "register", "tensor",
]  # fmt: skip

Buffer = torch.Tensor


def register(op: Callable[..., Any], *names: str) -> None:
    """Make `op` a method of Tensor, by its own name or these (called by `tritonnet.ops`)."""
    for name in names or (op.__name__,):
        setattr(Tensor, name, op)


class Tensor:
    """An n-dimensional array on the process's device that remembers how it was computed.

    Make one with `tn.tensor`, `tn.from_numpy` or `tn.from_torch`.
    """

    __slots__ = ("__weakref__", "_index", "_node", "data", "grad", "requires_grad", "version")
    __array_ufunc__ = None  # numpy's operators leave `array * tensor` to ours

    def __init__(
        self, data: Buffer, *, requires_grad: bool = False, node: function.Node | None = None, index: int = 0
    ) -> None:
        if requires_grad and not data.is_floating_point():
            refuse("Tensor", f"requires_grad needs a floating-point tensor, got {data.dtype}")
        self.data = data  # the buffer: (N, H, W, C) for rank 4, row-major otherwise
        self.requires_grad = requires_grad or node is not None
        self.grad: Tensor | None = None
        self.version = 0  # counts changes of the values
        self._node, self._index = node, index

    if TYPE_CHECKING:  # what `register` adds

        def __getattr__(self, name: str) -> Any: ...
        def __neg__(self) -> "Tensor": ...
        def __add__(self, other: Any) -> "Tensor": ...

        __radd__ = __sub__ = __rsub__ = __mul__ = __rmul__ = __truediv__ = __add__

    # --- what it is ---

    @property
    def shape(self) -> tuple[int, ...]:
        """Sizes as torch gives them: (N, C, H, W) for rank 4."""
        return logical(self.data)

    @property
    def ndim(self) -> int:
        """Number of dimensions."""
        return self.data.dim()

    @property
    def dtype(self) -> torch.dtype:
        """The element type."""
        return self.data.dtype

    @property
    def device(self) -> torch.device:
        """The process's device."""
        return self.data.device

    @property
    def is_leaf(self) -> bool:
        """Whether no recorded operation produced it."""
        return self._node is None

    def size(self, dim: int | None = None) -> Any:
        """The shape, or one size of it."""
        return self.shape if dim is None else self.shape[dim]

    def dim(self) -> int:
        """Number of dimensions."""
        return self.ndim

    def numel(self) -> int:
        """Number of elements."""
        return self.data.numel()

    def __len__(self) -> int:
        if not self.shape:
            raise TypeError("len() of a 0-d tensor")
        return self.shape[0]

    def __bool__(self) -> bool:
        return bool(self.item())

    def __format__(self, spec: str) -> str:
        return object.__format__(self, spec) if self.shape else format(self.item(), spec)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Any:
        return self.numpy() if dtype is None else self.numpy().astype(dtype)

    def __repr__(self) -> str:
        extra = f", grad_fn={self._node.function.name}" if self._node else ""
        extra = extra or (", requires_grad=True" if self.requires_grad else "")
        if self.numel() > 1000:
            return f"tn.Tensor(shape={self.shape}, dtype={str(self.dtype).removeprefix('torch.')}{extra})"
        return f"tn.Tensor({self.numpy()}, dtype={str(self.dtype).removeprefix('torch.')}{extra})"

    # --- gradients ---

    def edge(self) -> Any:
        """Where its gradient goes: (node, output number) of its producer, or itself for a leaf."""
        return self if self._node is None else (self._node, self._index)

    def accumulate(self, gradient: Buffer) -> None:
        """Add `gradient` to the `.grad` of this leaf."""
        if self.requires_grad:
            self.grad = Tensor(function.add(None if self.grad is None else self.grad.data, gradient))

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget the gradient, or make it zero: in a fresh buffer, since the old one may be another tensor's too."""
        if self.grad is not None:
            self.grad = None if set_to_none else Tensor(runtime.zeros(tuple(self.data.shape), torch.float32))

    def requires_grad_(self, requires_grad: bool = True) -> "Tensor":
        """Set whether this leaf gathers a gradient."""
        if self._node is not None:
            refuse("requires_grad_", "only a leaf's flag can be changed; use detach() first")
        if requires_grad and not self.data.is_floating_point():
            refuse("requires_grad_", f"only floating-point tensors can require a gradient, got {self.dtype}")
        self.requires_grad = requires_grad
        return self

    def backward(
        self, gradient: "Tensor | None" = None, retain_graph: bool = False, create_graph: bool = False
    ) -> None:
        """Add the gradient of this tensor to `.grad` of every leaf it was computed from.

        Args:
            gradient: of the final quantity with respect to this tensor, same shape; may be left out for one element.
            retain_graph: keep what the forward saved, for another backward. Otherwise it is freed on the way.
            create_graph: must be False; second derivatives are not there.

        Raises:
            Refused: nothing to differentiate, a gradient of another shape, or a graph already freed.
        """
        if create_graph:
            refuse("backward", "create_graph must be False: second derivatives are not supported")
        if not self.requires_grad:
            refuse("backward", "the tensor must have been computed from one with requires_grad=True")
        if gradient is None:
            if self.numel() != 1:
                refuse(
                    "backward", f"gradient must be given for a tensor of more than one element, got shape {self.shape}"
                )
            seed = fill(runtime.empty(tuple(self.data.shape), self.dtype), 1)
        else:
            check_tensors("backward", gradient=gradient)
            if gradient.shape != self.shape:
                refuse("backward", f"gradient must have shape {self.shape}, got {gradient.shape}")
            seed = gradient.data if gradient.dtype == self.dtype else cast(gradient.data, self.dtype)
        function.backward(self, seed, retain_graph)

    def changed(self, low_is_fresh: bool = False) -> None:
        """Count a change of the values: a backward through what was computed from the old ones is refused.

        `low_is_fresh`: see `Parameter`.
        """
        self.version += 1

    def detach(self) -> "Tensor":
        """The same values, without their history."""
        return Tensor(self.data)

    # --- in and out ---

    def torch(self) -> torch.Tensor:
        """The buffer as a torch tensor of this shape, without a copy: a channels-last view for rank 4."""
        return self.data.permute(0, 3, 1, 2) if self.ndim == 4 else self.data

    def numpy(self) -> Any:
        """A copy as a numpy array of this shape in C order (float32 for 16-bit floats); waits for the device."""
        data = self.data
        if data.dtype in (torch.bfloat16, torch.float16):
            data = cast(data, torch.float32)
        if data.dim() == 4:
            data = nhwc_to_nchw(data)
        host = torch.empty(data.shape, dtype=data.dtype, device="cpu")
        host.copy_(data)
        return host.numpy()

    def item(self) -> Any:
        """The only element as a Python number; waits for the device.

        Raises:
            Refused: more than one element.
            tritonnet.Fault: a kernel has met bad data (a label outside the classes, a loss that is not finite).
        """
        if self.numel() != 1:
            refuse("item", f"the tensor must have one element, got shape {self.shape}")
        fault.check()
        return self.data.item()

    def __float__(self) -> float:
        return float(self.item())

    def __int__(self) -> int:
        return int(self.item())

    def cpu(self) -> "Tensor":
        """Not there: this process has one device. `.numpy()` copies to the host."""
        return self.to("cpu")  # type: ignore[no-any-return]

    def cuda(self, device: int | None = None) -> "Tensor":
        """This tensor, if the process's device is that CUDA device."""
        return self.to("cuda" if device is None else f"cuda:{device}")  # type: ignore[no-any-return]


def check_tensors(op: str, **tensors: object) -> None:
    """Raise `Refused` unless each of `tensors` is a Tensor."""
    for name, t in tensors.items():
        if not isinstance(t, Tensor):
            got = "torch.Tensor" if isinstance(t, torch.Tensor) else type(t).__name__
            refuse(op, f"{name} must be a tritonnet Tensor, got {got}; use tn.from_numpy or tn.from_torch")


def check_device(target: Any) -> None:
    """Raise `Refused` unless `target` names the process's device."""
    try:
        wanted, here = torch.device(target), runtime.device()
    except (RuntimeError, TypeError) as error:
        raise Refused(f"[to] expected a dtype or a device, got {target!r}") from error
    if wanted.type != here.type or wanted.index not in (None, here.index):
        refuse("to", f"the device of this process is {here}, got {wanted}; a process has one device")


def _to_device(host: Buffer) -> Buffer:
    if host.device == runtime.device():
        return host
    buffer = torch.empty_strided(host.shape, host.stride(), dtype=host.dtype, device=runtime.device())
    return buffer.copy_(host)


def from_torch(value: torch.Tensor, requires_grad: bool = False) -> Tensor:
    """A Tensor of a torch tensor's shape and values; no copy where its memory already is ours (channels-last, one pitch).

    Raises:
        Refused: not a torch tensor, or float64 or complex (convert it first).
    """
    if not isinstance(value, torch.Tensor):
        refuse("from_torch", f"value must be a torch.Tensor, got {type(value).__name__}")
    value = value.detach()
    if value.dtype == torch.float64 or value.is_complex():
        refuse("from_torch", f"value must not be {value.dtype}; convert it to float32 first")
    if value.dtype == torch.bool:
        value = value.view(torch.uint8)
    if value.dim() != 4:
        if not value.is_contiguous():
            refuse("from_torch", f"value must be contiguous, got strides {tuple(value.stride())}; use .contiguous()")
        return Tensor(_to_device(value), requires_grad=requires_grad)
    buffer = value.permute(0, 2, 3, 1)
    n, h, w, c = buffer.shape
    step = _pitch_of(buffer)
    if step is not None:
        strides = (h * w * step, w * step, step, 1)
        return Tensor(_to_device(buffer).as_strided((n, h, w, c), strides), requires_grad=requires_grad)
    if not value.is_contiguous():
        refuse("from_torch", f"value must be contiguous or channels-last, got strides {tuple(value.stride())}")
    return Tensor(nchw_to_nhwc(_to_device(value)), requires_grad=requires_grad)


def _pitch_of(buffer: Buffer) -> int | None:
    """The pitch of an (N, H, W, C) view, ignoring the strides of sizes of 1; None if it has none."""
    n, h, w, c = buffer.shape
    if 0 in buffer.shape:
        return max(c, 1)
    s0, s1, s2, s3 = buffer.stride()
    if c > 1 and s3 != 1:
        return None
    step = s2 if w > 1 else s1 // w if h > 1 else s0 // (h * w) if n > 1 else c
    good = step >= c and (w == 1 or s2 == step) and (h == 1 or s1 == w * step) and (n == 1 or s0 == h * w * step)
    return step if good else None


def from_numpy(value: Any, requires_grad: bool = False) -> Tensor:
    """A Tensor of a numpy array's shape and values (copied).

    Raises:
        Refused: not a numpy array, or float64, complex or text.
    """
    try:
        host = torch.from_numpy(value)
    except (TypeError, ValueError) as error:  # ValueError: negative strides, foreign byte order
        what = type(value).__name__
        raise Refused(f"[from_numpy] value must be a numeric numpy array, got {what}: {error}") from error
    if host.dtype == torch.float64:
        refuse("from_numpy", "value must not be float64; write array.astype('float32')")
    if not host.is_contiguous():
        refuse("from_numpy", f"value must be C-contiguous, got strides {host.stride()}; use numpy.ascontiguousarray")
    result = from_torch(host, requires_grad)
    if result.data.data_ptr() == host.data_ptr() and host.numel():  # the interpreter's device is the host: do not share
        own = torch.empty_strided(result.data.shape, result.data.stride(), dtype=host.dtype, device=runtime.device())
        result.data = own.copy_(result.data)
    return result


def as_tensor(value: Any) -> Tensor:
    """A Tensor as it is, or one of a torch tensor's or a numpy array's values, any strides; float64 becomes float32."""
    if isinstance(value, Tensor):
        return value
    if isinstance(value, torch.Tensor):
        value = value.detach().contiguous()
        return from_torch(value.float() if value.dtype == torch.float64 else value)
    # astype copies, so that a read-only or strided array is fine; the reshapes turn a numpy number into an array
    array = value.astype("float32" if str(value.dtype) == "float64" else value.dtype, order="C")
    return from_numpy(array.reshape(-1).reshape(value.shape))


def tensor(data: Any, dtype: torch.dtype | None = None, requires_grad: bool = False) -> Tensor:
    """A Tensor of numbers, nested lists of them, or a numpy array, as `torch.tensor` makes one."""
    if isinstance(data, Tensor):
        refuse("tensor", "data is a Tensor already; use detach()")
    if hasattr(data, "__array_interface__"):
        made = as_tensor(data)
        return Tensor(cast(made.data, dtype) if dtype else made.data, requires_grad=requires_grad)
    host = torch.tensor(data, dtype=dtype)  # reads Python numbers; float32 and int64 by default
    if host.dtype == torch.float64:
        refuse("tensor", "dtype must not be float64")
    return from_torch(host.clone() if host.dim() == 0 else host, requires_grad)
