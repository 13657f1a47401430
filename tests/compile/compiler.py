"""From launches recorded on `meta` buffers to compiled kernels and what they need of the machine."""

import re
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from tritonnet.kernels import runtime

# Shared memory that one program may have, bytes (CUDA programming guide, table of compute capabilities; CDNA 3 ISA).
SHARED = {
    "sm_80": 163 * 1024,
    "sm_86": 99 * 1024,
    "sm_89": 99 * 1024,
    "sm_90": 227 * 1024,
    "sm_100": 227 * 1024,
    "sm_120": 99 * 1024,
    "gfx942": 64 * 1024,
}
ELEMENT = {
    torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16", torch.int64: "i64", torch.int32: "i32",
    torch.int16: "i16", torch.int8: "i8", torch.uint8: "u8", torch.uint16: "u16", torch.bool: "i1",
}  # fmt: skip
TENSOR_CORE = re.compile(r"\b(mma\.sync|wgmma\.mma_async|tcgen05\.mma|v_mfma_)")
ACCESS = re.compile(r"\b(ld|st|atom|red|cp|prefetch)(\.[a-z]+)*\.(global|tensor|bulk)|\bld\.(acquire|relaxed|volatile)")
RESOURCES = re.compile(r"REG:(\d+) STACK:(\d+) SHARED:\d+ LOCAL:(\d+)")
CUOBJDUMP = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"


@dataclass(frozen=True)
class Launch:
    """One specialisation of a kernel: all that decides the machine code, the architecture apart."""

    kernel: Any
    signature: tuple[tuple[str, str], ...]
    constants: tuple[tuple[str, Any], ...]
    divisible: tuple[int, ...]  # arguments that are multiples of 16
    num_warps: int
    num_stages: int

    def __str__(self) -> str:
        constants = ", ".join(f"{name}={value}" for name, value in self.constants)
        types = ", ".join(kind for _, kind in self.signature if kind != "constexpr")
        return f"{self.kernel.__name__}({types}; {constants}; {self.num_warps} warps, {self.num_stages} stages)"


@dataclass(frozen=True)
class Compiled:
    """What a compiled kernel needs, and whether its matrix products use tensor cores."""

    shared: int  # bytes
    stack: int | None  # bytes a thread that did not fit registers; None where no tool tells
    needs_tensor_cores: bool
    has_tensor_cores: bool
    waits: bool  # for the launch before, from Hopper on (`runtime.begin`), ahead of every access to memory


def specialise(
    kernel: Any, args: tuple[Any, ...], constants: dict[str, Any], num_warps: int, num_stages: int
) -> Launch:
    """The specialisation that the just-in-time compiler would choose for these arguments."""
    values = dict(zip((p.name for p in kernel.params), args, strict=False)) | constants
    signature, fixed, divisible = [], [], []
    for number, parameter in enumerate(kernel.params):
        value = values.get(parameter.name, parameter.default if parameter.has_default else ...)
        assert value is not ..., f"{kernel.__name__}: no value for {parameter.name}"
        if parameter.is_constexpr or value is None or (type(value) is int and value == 1):
            kind = "constexpr"
            fixed.append((parameter.name, value))
        elif isinstance(value, torch.Tensor):
            kind = "*" + ELEMENT[value.dtype]
            if value.storage_offset() * value.element_size() % 16 == 0:
                divisible.append(number)
        elif hasattr(value, "block_shape"):
            kind = f"tensordesc<{ELEMENT[value.base.dtype]}{list(value.block_shape)}>"
        elif isinstance(value, bool):
            kind = "i1"
        elif isinstance(value, int):
            kind = "i32" if -(2**31) <= value < 2**31 else "i64"
            if value % 16 == 0:
                divisible.append(number)
        else:
            assert isinstance(value, float), f"{kernel.__name__}: {parameter.name} is a {type(value).__name__}"
            kind = "fp32"
        signature.append((parameter.name, kind))
    return Launch(kernel, tuple(signature), tuple(fixed), tuple(divisible), num_warps, num_stages)


def record(arch: str, case: Callable[[], object]) -> list[Launch]:
    """The different launches that `case` would make on `arch`, in order."""
    launches: dict[Launch, None] = {}
    with runtime.recording(arch, lambda *launch: launches.setdefault(specialise(*launch))):
        case()
    return list(launches)


@cache
def compile_for(arch: str, launch: Launch) -> Compiled:
    """Compile one launch for `arch` and read what it needs."""
    nvidia = arch.startswith("sm_")
    target = GPUTarget("cuda", int(arch[3:]), 32) if nvidia else GPUTarget("hip", arch, 64)
    aligned = {(number,): [["tt.divisibility", 16]] for number in launch.divisible}
    source = ASTSource(launch.kernel, dict(launch.signature), dict(launch.constants), aligned)
    options = {"num_warps": launch.num_warps, "num_stages": launch.num_stages, "enable_fp_fusion": True}
    with mock.patch("triton.language.target_info.current_target", return_value=target):  # no device says it
        built = triton.compile(source, target=target, options=options)
    assembly = built.asm["ptx" if nvidia else "amdgcn"]
    return Compiled(
        shared=built.metadata.shared,
        stack=_stack(built.asm["cubin"]) if nvidia else None,
        needs_tensor_cores=_wants_tensor_cores(built.asm["ttir"]),
        has_tensor_cores=TENSOR_CORE.search(assembly) is not None,
        waits=not nvidia or target.arch < 90 or "griddepcontrol.wait" in ACCESS.split(assembly, maxsplit=1)[0],
    )


def _wants_tensor_cores(ttir: str) -> bool:
    """Whether it multiplies matrices in anything but IEEE float32."""
    dots = [line for line in ttir.splitlines() if "tt.dot " in line]
    return any("inputPrecision = tf32" in dot or re.search(r"x(bf16|f16)>? \*", dot) is not None for dot in dots)


def _stack(cubin: bytes) -> int:
    """Bytes of stack and local memory a thread."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        text = subprocess.run([CUOBJDUMP, "-res-usage", file.name], capture_output=True, text=True, check=True).stdout
    found = RESOURCES.search(text)
    assert found is not None, f"cuobjdump said {text!r}"
    return int(found[2]) + int(found[3])
