"""Find the tiles of the convolution kernels on this GPU: check every candidate against cuDNN, time it, keep the fastest.

    python -m bench.sweep_conv2d [--out DIR] [--batch 16] [--precision bf16] [--only 128-128] [--passes fwd,dgrad,wgrad]

Candidates are compiled and checked by worker processes, then timed one after another in this one, with cuDNN beside them.
Writes DIR/candidates.jsonl (a line a candidate) and DIR/<arch>.json, the shipped tile table with what was found, and a row a
problem where `python -m pytest bench` writes its own (--rows FILE). A candidate that fails to compile, or errs by more than 1e-2,
is written down and never chosen.
"""

import argparse
import dataclasses
import itertools
import json
import multiprocessing
import time
from pathlib import Path
from typing import Any

import torch

from bench.cases import LOW, Case, let_torch_be_fast, nbytes, nchw, randn
from bench.rows import Rows
from tritonnet.kernels import conv2d as conv
from tritonnet.kernels import runtime
from tritonnet.kernels.conv2d_tiles import Geometry, Tile, split_count
from tritonnet.kernels.runtime import multiprocessors
from tritonnet.measure.timer import measure

# (C, K, height = width) of the U-Net's 3x3 convolutions at 256x256, encoder and decoder
LAYERS = [
    (64, 64, 256), (64, 128, 128), (128, 128, 128), (128, 256, 64), (256, 256, 64), (256, 512, 32), (512, 512, 32),
    (512, 1024, 16), (1024, 1024, 16), (1024, 512, 32), (512, 256, 64), (256, 128, 128), (128, 64, 256),
]  # fmt: skip
# (C, K, output side) of its transposed 2x2 stride 2 convolutions: C in, K out
UPS = [(1024, 512, 32), (512, 256, 64), (256, 128, 128), (128, 64, 256)]
# C, K, side of its first convolution (3x3 of an RGB image) and of its last (1x1, one logit a class)
FIRST, LAST = (3, 64, 256), (64, 2, 256)
PASSES = (
    "fwd", "dgrad", "wgrad", "up_fwd", "up_dgrad", "up_wgrad", "first_fwd", "first_wgrad", "last_fwd", "last_dgrad", "last_wgrad"
)  # fmt: skip
Setting = tuple[str, int, int, int, int, str]  # pass, C, K, side, batch, precision (bf16 or tf32)


# block_n, block_m, warps, stages
FORWARD = [
    (128, 128, 4, 3), (128, 128, 4, 4), (128, 128, 8, 3), (128, 256, 8, 3), (128, 256, 8, 4), (64, 256, 4, 2),
    (64, 256, 4, 3), (64, 256, 8, 3), (64, 128, 4, 3), (64, 128, 4, 4), (256, 128, 8, 3), (128, 64, 4, 4), (64, 64, 4, 4),
]  # fmt: skip
# block_m, block_n, pixels a step, warps, stages, taps
WEIGHTS = [
    (128, 128, 64, 4, 2, 1), (128, 128, 64, 4, 3, 1), (128, 128, 64, 8, 3, 1), (128, 128, 128, 8, 2, 1), (128, 256, 64, 8, 3, 1),
    (256, 128, 64, 8, 3, 1), (64, 64, 64, 4, 3, 1), (128, 64, 64, 4, 3, 1), (64, 128, 64, 4, 3, 1), (64, 64, 64, 4, 3, 3),
    (64, 64, 128, 4, 2, 3), (128, 64, 64, 8, 3, 3), (128, 64, 64, 4, 2, 3), (128, 128, 64, 8, 2, 3), (64, 128, 64, 4, 2, 3),
    (64, 128, 64, 8, 3, 3), (64, 64, 32, 4, 4, 3), (128, 64, 32, 4, 4, 3),
]  # fmt: skip


def forward_tiles(depth: int, width: int, side: int, batch: int, form: str, precision: str) -> list[Tile]:
    """For a forward or an input gradient by tensor maps: every block size with boxes of a few shapes."""
    tiles = []
    step = min(depth, 64 if precision == "bf16" else 32)
    for block_n, block_m, warps, stages in FORWARD:
        if block_n > max(width, 64):
            continue
        for columns in {16, 32, min(side, block_m)}:
            rows = block_m // columns
            images = max(1, rows // side) if form == "tensormap" else 1  # a patch's rows are those of all images
            if columns > side or rows > 4 * columns or images > batch:
                continue
            tile = Tile(form, block_m, block_n, step, warps, stages, rows=rows // images, images=images)
            programs = batch * side * side // block_m * -(-width // block_n)
            splits = (
                s for s in (2, 3, 4, 6, 8, 12, 16) if form == "tensormap" and programs * s <= 2 * multiprocessors()
            )
            tiles += [tile, *(dataclasses.replace(tile, splits=s) for s in splits)]
    if form == "tensormap" and width <= 128:  # rows that share what is read
        for columns, stages in itertools.product((32, 64), (2, 3)):
            tiles.append(Tile(form, 4 * columns, 64, step // 2, 4, stages, rows=4, taps=3))
    return tiles


def weight_tiles(c: int, k: int, side: int, batch: int, form: str, precision: str) -> list[Tile]:
    """For a weight gradient by tensor maps: rows of dw are `k` channels, columns `c`."""
    tiles = []
    for block_m, block_n, pixels, warps, stages, taps in WEIGHTS:
        if block_m > max(k, 64) or block_n > max(c, 64) or (form == "patch" and taps > 1):
            continue
        step = pixels if precision == "bf16" else pixels // 2
        programs = -(-k // block_m) * -(-c // block_n) * (9 if form == "tensormap" else 4) // taps
        rows, steps = max(1, step // side), batch * side * side // step
        images = max(1, rows // side) if form == "tensormap" else 1
        shares = {(split_count(programs, steps, waves), 0) for waves in (1, 2, 4)}
        if form == "tensormap":
            for wave, waves in itertools.product([i * multiprocessors() for i in (1, 2, 3)], (1, 2, 3, 4)):
                for whole in (0, programs // wave * wave):
                    splits = waves * wave // max(1, programs - whole)
                    if splits == 1 or 1 < splits <= steps // 4:
                        shares.add((splits, whole))
        for splits, whole in sorted(shares):
            tiles.append(Tile(form, block_m, block_n, step, warps, stages, splits, rows // images, images, taps, whole))
    return tiles


def gather_tiles(name: str) -> list[Tile]:
    """For the first and the last convolution, which have too few channels for tensor maps."""
    tiles = []
    for pixels, warps in itertools.product([64, 128, 256, 512], [2, 4, 8]):
        if name.endswith("wgrad"):
            rows, columns = (64, 32) if name == "first_wgrad" else (16, 64)
            tiles += [Tile("gather", rows, columns, pixels, warps, 3, splits) for splits in (132, 264, 528)]
        else:
            width, step = {"first_fwd": (64, 32), "last_fwd": (16, 64), "last_dgrad": (64, 16)}[name]
            tiles.append(Tile("gather", pixels, width, step, warps, 3))
    return tiles


def candidates(case: Setting) -> list[Tile]:
    """The tiles worth trying for a case."""
    name, c, k, side, batch, precision = case
    kind, _, pass_ = name.rpartition("_")
    if kind in ("first", "last"):
        return gather_tiles(name)
    if kind == "up":  # its pixels are the small image's; the forward of a transposed convolution is an input gradient
        if pass_ == "wgrad":
            return weight_tiles(k, c, side // 2, batch, "patch", precision)
        depth, width = (c, k) if pass_ == "fwd" else (k, c)
        return forward_tiles(depth, width, side // 2, batch, "patch", precision)
    if pass_ == "wgrad":
        return weight_tiles(c, k, side, batch, "tensormap", precision)
    depth, width = (c, k) if pass_ == "fwd" else (k, c)
    return forward_tiles(depth, width, side, batch, "tensormap", precision)


def layers(name: str) -> list[tuple[int, int, int]]:
    """The layers of the U-Net that have this pass."""
    return {"up": UPS, "first": [FIRST], "last": [LAST]}.get(name.split("_")[0], LAYERS)


class Problem:
    """One case with its data: ours by tile, theirs, and the reference."""

    def __init__(self, case: Setting) -> None:
        self.case = case
        name, c, k, side, batch, self.precision = case
        self.dtype = LOW if self.precision == "bf16" else torch.float32
        self.tf32 = self.precision == "tf32"
        let_torch_be_fast(self.tf32)

        def random(*shape: int) -> torch.Tensor:
            n, c, h, w = shape
            return nchw(randn(n, h, w, c, dtype=self.dtype))

        self.up = name.startswith("up_")
        small = side // 2 if self.up else side
        self.x, self.dy = random(batch, c, small, small), random(batch, k, side, side)
        if not name.startswith("first_"):
            self.x.relu_()
        self.taps = 2 if self.up else 1 if name.startswith("last_") else 3
        self.w = random(c, k, 2, 2) if self.up else random(k, c, self.taps, self.taps)
        self.flops = 2 * batch * small * small * c * k * self.taps**2

    @property
    def label(self) -> str:
        """How results name it."""
        name, c, k, side, batch, precision = self.case
        return f"{name} {c}-{k}@{side} batch{batch} {precision}"

    def case_of(self, tile: Tile | None) -> Case:
        """Ours by this tile beside theirs. A sum of rounded products errs by 1e-2 at most, also with tf32's 10 bits."""
        moved = nbytes(self.x, self.dy, self.w)
        return Case(lambda: self.ours(tile), self.theirs, moved, self.flops, 1e-2, self.dtype)

    def theirs(self) -> torch.Tensor:
        """PyTorch's result, through cuDNN, as an NHWC buffer."""
        mask = [self.case[0].endswith("dgrad"), self.case[0].endswith("wgrad"), False]
        pad = [self.taps // 2 if not self.up else 0] * 2
        stride = [2, 2] if self.up else [1, 1]
        if any(mask):
            grads = torch.ops.aten.convolution_backward(
                self.dy, self.x, self.w, None, stride, pad, [1, 1], self.up, [0, 0], 1, mask)  # fmt: skip
            result = grads[0] if mask[0] else grads[1]
        else:
            result = torch.ops.aten.convolution(self.x, self.w, None, stride, pad, [1, 1], self.up, [0, 0], 1)
        return result.permute(0, 2, 3, 1)

    def ours(self, tile: Tile | None) -> torch.Tensor:
        """The same by our launchers."""
        x, dy, w = (t.permute(0, 2, 3, 1) for t in (self.x, self.dy, self.w))
        side = self.case[3]
        name = self.case[0].removeprefix("first_").removeprefix("last_")
        pad, common = self.taps // 2, {"tile": tile, "tf32": self.tf32}
        if name == "fwd":
            return conv.conv2d_fwd(x, w, padding=(pad,) * 4, **common)[0]
        if name == "dgrad":
            return conv.conv2d_dgrad(dy, w, input_size=(side, side), pad=(pad, pad), **common)[0]
        if name == "wgrad":
            return conv.conv2d_wgrad(dy, x, kernel_size=(self.taps, self.taps), pad=(pad, pad), **common)
        if name == "up_fwd":
            return conv.conv2d_dgrad(x, w, input_size=(side, side), stride=(2, 2), **common)[0]
        if name == "up_dgrad":
            return conv.conv2d_fwd(dy, w, stride=(2, 2), **common)[0]
        return conv.conv2d_wgrad(x, dy, kernel_size=(2, 2), stride=(2, 2), **common)

    def key(self) -> tuple[str, str]:
        """Where the tile table keeps this problem."""
        name, c, k, side, batch, _ = self.case
        if self.up:
            pass_ = {"up_fwd": "conv2d_dgrad", "up_dgrad": "conv2d_fwd", "up_wgrad": "conv2d_wgrad"}[name]
            g = Geometry(batch, side, side, k, side // 2, side // 2, c, 2, 2, (2, 2), (0, 0), (1, 1))
        else:
            pass_ = f"conv2d_{name.split('_')[-1]}"
            pad = self.taps // 2
            g = Geometry(batch, side, side, c, side, side, k, self.taps, self.taps, (1, 1), (pad, pad), (1, 1))
        return pass_, f"{g.key} {str(self.dtype).removeprefix('torch.')}"


def check(case: Setting) -> list[tuple[Tile, str]]:
    """Compile and run every candidate once; say what is wrong with it, or ""."""
    problem = Problem(case)
    expected = problem.theirs().float()
    verdicts = []
    for tile in candidates(case):
        try:
            error = float((problem.ours(tile).float() - expected).norm() / expected.norm())
            verdicts.append((tile, "" if error <= 1e-2 else f"wrong: relative error {error:.2g}"))
        except Exception as failure:  # whatever the compiler says is a row of the result
            verdicts.append((tile, f"{type(failure).__name__}: {str(failure)[:80]}"))
    return verdicts


def main() -> None:
    """Sweep the U-Net's layers."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("sweep"))
    parser.add_argument("--rows", type=Path)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--precision", default="bf16", choices=["bf16", "tf32"])
    parser.add_argument("--only", default="")
    parser.add_argument("--passes", default=",".join(PASSES))
    parser.add_argument("--workers", type=int, default=12)
    options = parser.parse_args()
    passes = options.passes.split(",")
    if options.precision == "tf32":  # these run as bfloat16, by its tiles
        passes = [name for name in passes if name not in ("wgrad", "up_wgrad")]
    cases: list[Setting] = [
        (name, c, k, side, options.batch, options.precision) for name in passes
        for c, k, side in layers(name) if options.only in f"{c}-{k}"
    ]  # fmt: skip
    start = time.perf_counter()
    with multiprocessing.get_context("spawn").Pool(options.workers) as pool:
        verdicts = pool.map(check, cases, chunksize=1)
    print(f"checked in {time.perf_counter() - start:.0f} s", flush=True)
    options.out.mkdir(parents=True, exist_ok=True)
    shipped = Path(conv.__file__).resolve().parent / "tiles" / f"{runtime.arch()}.json"
    table: dict[str, dict[str, Any]] = json.loads(shipped.read_text()) if shipped.is_file() else {}
    rows = Rows(options.rows)
    with (options.out / "candidates.jsonl").open("w") as tried:
        for case, judged in zip(cases, verdicts, strict=True):
            problem = Problem(case)
            timed = []
            for tile, wrong in judged:
                row: dict[str, Any] = {"case": case, "tile": dataclasses.asdict(tile), "error": wrong}
                if not wrong:
                    row["ms"] = measure(lambda p=problem, t=tile: p.ours(t), repeats=10, warmup=2, graph=True).median_ms
                    timed.append((row["ms"], tile))
                tried.write(json.dumps(row) + "\n")
            bad = sum(bool(wrong) for _, wrong in judged)
            best = min(timed, key=lambda pair: pair[0])[1]
            pass_, key = problem.key()
            table.setdefault(pass_, {})[key] = dataclasses.asdict(best)
            rule = measure(lambda p=problem: p.ours(None), repeats=10, warmup=2, graph=True).median_ms
            more = {
                "tile": dataclasses.asdict(best),
                "rule_ms": round(rule, 5),
                "candidates": len(judged),
                "wrong": bad,
            }
            row = rows.time("conv2d", problem.label, problem.case_of(best), **more)
            print(
                f"{problem.label:34} ours {row['tflops']:4.0f} TFLOP/s (by rule {problem.flops / rule / 1e9:4.0f}) "
                f"theirs / ours {row['ratio']:.2f} bad {bad}/{len(judged)} {tuple(dataclasses.astuple(best)[1:])}", flush=True,
            )  # fmt: skip
    (options.out / f"{runtime.arch()}.json").write_text(json.dumps(table, indent=1, sort_keys=True) + "\n")
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}, {time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    main()
