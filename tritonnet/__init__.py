"""tritonnet: train U-Nets end to end on hand-written Triton kernels.

    import tritonnet as tn

Names, arguments, defaults and results are torch's where torch has them; torch itself only allocates, copies and views.
"""

from pathlib import Path

from tritonnet import _startup

if not (Path(__file__).parent / "kernels" / "__init__.py").is_file():
    raise ImportError(
        f"[tritonnet] the link {Path(__file__).parent / 'kernels'} -> ../kernels is missing; clone the repository with git "
        "(an archive may drop symbolic links), or run: ln -s ../kernels tritonnet/kernels"
    )

_notice = _startup.prepare()

from tritonnet import ops  # noqa: E402
from tritonnet.autograd import (  # noqa: E402
    Function,
    Parameter,
    Tensor,
    from_numpy,
    from_torch,
    get_precision,
    graph,
    is_grad_enabled,
    no_grad,
    precision,
    set_precision,
    tensor,
)  # fmt: skip
from tritonnet.kernels import runtime as _runtime  # noqa: E402
from tritonnet.kernels.fault import Fault  # noqa: E402
from tritonnet.kernels.runtime import Refused  # noqa: E402
from tritonnet.ops.random import manual_seed, rand, randn  # noqa: E402

from tritonnet import models, nn, optim  # noqa: E402  # isort: skip

_runtime.notice = _notice

__version__ = "0.1.0"

__all__ = [
    "Fault", "Function", "Parameter", "Refused", "Tensor", "from_numpy", "from_torch", "get_precision", "graph",
    "is_grad_enabled", "manual_seed", "models", "nn", "no_grad", "ops", "optim", "precision", "rand", "randn",
    "set_precision", "tensor",
]  # fmt: skip
