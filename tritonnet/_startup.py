"""What must happen before anything imports triton: without a GPU the kernels run on Triton's interpreter.

`triton.jit` reads TRITON_INTERPRET when a kernel is *defined*, so the variable is set here, ahead of `tritonnet.kernels`.
If triton was imported earlier (constructing a torch optimizer does it), its own library functions were already defined for
the compiler; they are defined anew and rebound.

Set TRITON_INTERPRET=0 yourself to keep the compiler without a GPU: that is what the compile-only tests do.
"""

import importlib
import os
import sys
from pathlib import Path

if not any(Path(device).exists() for device in ("/dev/nvidiactl", "/dev/kfd")):
    # The interpreter multiplies many small matrices with numpy, whose threads would only wait for each other. numpy reads
    # this when it is loaded, which importing torch does.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import torch

__all__ = ["prepare"]


def prepare() -> str:
    """Choose compiler or interpreter for this process; what the first launch says, where it is the interpreter."""
    notice = ""
    if not torch.cuda.is_available() and "TRITON_INTERPRET" not in os.environ:
        os.environ["TRITON_INTERPRET"] = "1"
        notice = "no GPU: running on Triton's interpreter, correct but slow"
    if os.environ.get("TRITON_INTERPRET") == "1" and "triton.language" in sys.modules:
        _redefine_standard_library()
    return notice


def _redefine_standard_library() -> None:
    """Reload triton.language's own jitted helpers so that they are interpreted, and rebind their names."""
    import triton.language as tl

    for name in ("standard", "random"):
        module = getattr(tl, name)
        before = dict(vars(module))
        importlib.reload(module)
        for key, old in before.items():
            new = vars(module).get(key)
            if new is not old and vars(tl).get(key) is old:
                setattr(tl, key, new)
