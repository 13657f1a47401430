"""Every launcher, compiled for every architecture: what the interpreter accepts and the compiler refuses shows up here."""

import ast
import importlib
import json
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
import torch
from cases import CASES
from compiler import SHARED, Launch, compile_for, record
from convolutions import GEMM, PRECISIONS, Precision, convolution

from tritonnet.autograd import Context
from tritonnet.measure.tune import Problem
from tritonnet.ops.conv import Conv2dFunction

KERNELS = Path(__file__).resolve().parents[2] / "kernels"

# Bytes a thread that may lie outside registers. ptxas parks up to four values at times although registers are left; more
# than that is a tile too large.
PARKED = 16

# Outside the matrix products a 16-bit type changes only the conversion at loads and stores, which few architectures show,
# and sm_89 compiles to what sm_86 does. In them float16 has bfloat16's tiles and instructions.
ENOUGH = {"fp32": set(SHARED) - {"sm_89"}, "bf16": {"sm_90", "gfx942"}, "fp16": {"sm_90"}}
PLAN = [
    pytest.param(arch, case, precision, id=f"{arch}-{case}-{precision}")
    for arch in SHARED
    for case, (_, precisions) in CASES.items()
    for precision in precisions
    if arch in ENOUGH.get(precision, ()) or (precisions == GEMM and precision != "fp16")
]


def check(arch: str, launches: list[Launch]) -> None:
    """Each launch compiles, fits shared memory, keeps its values in registers, multiplies on tensor cores."""
    wrong = []
    for launch in launches:
        built = compile_for(arch, launch)
        if built.shared > SHARED[arch]:
            wrong.append(f"{launch}: {built.shared} bytes of shared memory, {arch} has {SHARED[arch]}")
        if built.stack is not None and built.stack > PARKED:
            wrong.append(f"{launch}: {built.stack} bytes a thread spilled on {arch}")
        if built.needs_tensor_cores and not built.has_tensor_cores:
            wrong.append(f"{launch}: no tensor-core instruction on {arch}")
        if not built.waits:
            wrong.append(f"{launch}: reads or writes before it waits for the launch before it")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(("arch", "case", "precision"), PLAN)
def test_compiles(arch: str, case: str, precision: str) -> None:
    run, _ = CASES[case]
    launches = record(arch, partial(run, PRECISIONS[precision]))
    assert launches
    check(arch, launches)
    if CASES[case][1] == GEMM and precision != "fp32":
        products = [launch for launch in launches if compile_for(arch, launch).needs_tensor_cores]
        assert products, f"no matrix product among {[str(launch) for launch in launches]}"


@pytest.mark.parametrize("arch", SHARED)
def test_shipped_tiles_compile(arch: str) -> None:
    path = KERNELS / "tiles" / f"{arch}.json"
    table = json.loads(path.read_text()) if path.is_file() else {}
    for name, problems in table.items():
        for problem in problems:
            check(arch, record(arch, table_case(name, problem)))
            channels, numbers = problem.split()[0], problem.split()[-1]
            # what tf32 runs with where the table has no tile of its own
            if numbers == "bfloat16" and all(int(c) % 16 == 0 for c in channels.split("-")):
                check(arch, record(arch, table_case(name, problem.replace("bfloat16", "tf32"))))


def table_case(name: str, problem: str) -> Callable[[], object]:
    """The launcher call that looks `problem` up in the table of pass `name`."""
    g, dtype = Problem(name, problem, "").sizes()
    numbers = Precision(dtype, tf32=dtype == torch.float32)
    return partial(
        convolution, name, numbers, g.N, g.H, g.W, g.C, g.K, (g.R, g.S), g.stride[0], g.pad[0], g.dilation[0],
        room=-g.C % 8 if g.S == 1 else 0,  # patches: fewer channels count than lie there
    )  # fmt: skip


@pytest.mark.parametrize("arch", ["sm_90", "sm_100", "sm_120"])
@pytest.mark.parametrize("batch", [1, 16])
def test_a_first_convolution_runs_over_patches(arch: str, batch: int) -> None:
    """As the op calls it, by tensor maps in each pass, with what the batch norm behind it needs."""
    x, w, dy = (
        torch.empty(size, dtype=torch.bfloat16, device="meta")
        for size in ((batch, 256, 256, 3), (64, 3, 3, 3), (batch, 256, 256, 64))
    )

    def step() -> None:
        ctx = Context((False, True, False))
        window = {"stride": (1, 1), "padding": (1,) * 4, "dilation": (1, 1), "tf32": False}
        y, *moments = Conv2dFunction.forward(ctx, x, w, None, half=None, statistics=True, **window)
        assert tuple(y.shape) == (batch, 256, 256, 64)
        assert len(moments) == 3
        dx, dw, db = Conv2dFunction.backward(ctx, dy)
        assert dw is not None
        assert tuple(dw.shape) == (64, 3, 3, 3)
        assert dx is db is None

    launches = record(arch, step)
    wgrad = ["_conv2d_box_wgrad_kernel", "_conv2d_box_wgrad_sum_kernel"]
    assert [launch.kernel.__name__ for launch in launches] == ["_unfold_kernel", "_conv2d_box_kernel", *wgrad]
    check(arch, launches)


def kernel_names() -> Iterator[tuple[str, str]]:
    """(file, name) of every kernel that a launcher starts: `_<op>_<pass>_kernel`."""
    for path in sorted(KERNELS.glob("*.py")):
        for node in ast.parse(path.read_text()).body:
            jitted = isinstance(node, ast.FunctionDef) and any("jit" in ast.unparse(d) for d in node.decorator_list)
            if jitted and node.name.endswith("_kernel"):
                yield path.stem, node.name


def test_table_reaches_every_kernel() -> None:
    reached = set()
    for run, precisions in CASES.values():
        for precision in precisions:
            reached |= {launch.kernel.__name__ for launch in record("sm_90", partial(run, PRECISIONS[precision]))}
    missing = [f"{file}.{name}" for file, name in kernel_names() if name not in reached]
    assert not missing, missing


def test_every_kernel_module_imports() -> None:
    for path in sorted(KERNELS.glob("*.py")):
        importlib.import_module(f"tritonnet.kernels.{path.stem}" if path.stem != "__init__" else "tritonnet.kernels")
