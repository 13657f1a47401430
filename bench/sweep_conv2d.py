"""Find the tiles of the convolution kernels on this GPU: check every candidate against cuDNN, time it, keep the fastest.

    python -m bench.sweep_conv2d [--out DIR] [--batch 16] [--precision bf16] [--only 128-128] [--passes fwd,dgrad,wgrad]

Candidates are compiled and checked by worker processes, then timed one after another in this one, with cuDNN beside them.
Writes DIR/sweep_conv2d.jsonl (a row a candidate) and DIR/<arch>.json, a tile table as kernels/tiles holds it. A candidate
that fails to compile, or is off by more than 1e-2 in bfloat16, is written down and never chosen.
"""

import argparse
import dataclasses
import json
import multiprocessing
import time
from pathlib import Path
from typing import Any

import torch

import tritonnet  # noqa: F401  first, so that kernels are defined for this device
from tritonnet.kernels import conv2d as conv
from tritonnet.kernels import runtime
from tritonnet.measure.timer import measure

# (C, K, height = width) of the U-Net's 3x3 convolutions at 256x256, encoder and decoder
LAYERS = [
    (64, 64, 256), (64, 128, 128), (128, 128, 128), (128, 256, 64), (256, 256, 64), (256, 512, 32), (512, 512, 32),
    (512, 1024, 16), (1024, 1024, 16), (1024, 512, 32), (512, 256, 64), (256, 128, 128), (128, 64, 256),
]  # fmt: skip
# (C, K, output side) of its transposed 2x2 stride 2 convolutions: C in, K out
UPS = [(1024, 512, 32), (512, 256, 64), (256, 128, 128), (128, 64, 256)]
Case = tuple[str, int, int, int, int, str]  # pass, C, K, side, batch, precision (bf16 or tf32)


def box_tiles(pixels: int, side: int, batch: int, **fields: Any) -> list[conv.Tile]:
    """Candidates with every sensible shape of the box."""
    found = []
    for columns in (8, 16, 32, 64, 128, 256):
        rows = pixels // columns
        images = max(1, rows // side)
        rows //= images
        if columns <= side and rows >= 1 and rows <= side and images <= batch and rows <= 4 * columns:
            found.append(conv.Tile("tensormap", rows=rows, images=images, **fields))
    return found


def candidates(case: Case) -> list[conv.Tile]:
    """The tiles worth trying for a case."""
    name, c, k, side, batch, precision = case
    tiles: list[conv.Tile] = []
    if name in ("fwd", "dgrad"):
        depth, width = (c, k) if name == "fwd" else (k, c)
        for block_n, block_m, warps, stages in [
            (128, 128, 4, 3), (128, 128, 4, 4), (128, 128, 8, 3), (128, 256, 8, 3), (128, 256, 8, 4), (64, 256, 4, 2),
            (64, 256, 4, 3), (64, 256, 8, 3), (64, 128, 4, 3), (64, 128, 4, 4), (256, 128, 8, 3),
        ]:  # fmt: skip
            if block_n <= max(width, 64):
                fields = {"block_m": block_m, "block_n": block_n, "block_k": min(depth, 64), "num_warps": warps, "num_stages": stages}
                tiles += [t for t in box_tiles(block_m, side, batch, **fields) if t.block_m // t.rows // t.images in (16, 32, side)]
    elif name == "wgrad":
        for block_m, block_n, pixels, warps, stages, taps in [
            (128, 128, 64, 4, 2, 1), (128, 128, 64, 8, 3, 1), (128, 128, 128, 8, 2, 1), (128, 256, 64, 8, 3, 1), (256, 128, 64, 8, 3, 1),
            (64, 64, 64, 4, 3, 3), (64, 64, 128, 4, 2, 3), (128, 64, 64, 8, 3, 3), (128, 64, 64, 4, 2, 3), (128, 128, 64, 8, 2, 3),
            (64, 128, 64, 4, 2, 3), (64, 128, 64, 8, 3, 3), (64, 64, 64, 4, 3, 1), (64, 64, 32, 4, 4, 3), (128, 64, 32, 4, 4, 3),
        ]:  # fmt: skip
            if block_m > max(k, 64) or block_n > max(c, 64):
                continue
            programs = -(-k // block_m) * -(-c // block_n) * 9 // taps
            for waves in (1, 2, 4):
                splits = conv.split_count(programs, batch * side * side // pixels, waves)
                rows = max(1, pixels // side)
                images = max(1, rows // side)
                tiles.append(conv.Tile("tensormap", block_m, block_n, pixels, warps, stages, splits, rows // images, images, taps))
    else:  # the transposed convolution's three passes; its pixels are the small image's
        small = side // 2
        if name == "up_wgrad":
            for block_m, block_n, pixels, warps, stages in [
                (128, 128, 64, 4, 2), (128, 128, 64, 8, 3), (128, 128, 64, 4, 3), (128, 64, 64, 4, 3), (64, 64, 64, 4, 3), (128, 256, 64, 8, 3),
                (64, 128, 64, 4, 3), (128, 64, 128, 4, 2),
            ]:  # fmt: skip
                programs = -(-c // block_m) * -(-k // block_n) * 4
                for waves in (1, 2, 4):
                    splits = conv.split_count(programs, batch * small * small // pixels, waves)
                    if block_n <= max(k, 64):
                        tiles.append(conv.Tile("patch", block_m, block_n, pixels, warps, stages, splits, max(1, pixels // small)))
        else:
            for block_n, block_m, warps, stages in [
                (128, 128, 4, 3), (128, 128, 4, 4), (128, 256, 8, 3), (64, 256, 4, 2), (64, 256, 4, 3), (64, 128, 4, 3), (64, 128, 4, 4),
                (128, 64, 4, 4), (256, 128, 8, 3), (64, 64, 4, 4),
            ]:  # fmt: skip
                if block_n <= max(k if name == "up_fwd" else c, 64):
                    for columns in {16, min(small, block_m)}:
                        tiles.append(conv.Tile("patch", block_m, block_n, 64, warps, stages, rows=block_m // columns))
    if precision == "tf32":  # twice the bytes: half the channels (or pixels) a step
        tiles = [dataclasses.replace(t, **_halved(t, name.endswith("wgrad"))) for t in tiles]
    return list(dict.fromkeys(tiles))


def _halved(t: conv.Tile, weights: bool) -> dict[str, int]:
    if not weights:
        return {"block_k": min(t.block_k, 32)}
    return {"block_k": t.block_k // 2, "rows": max(1, t.rows // 2), "images": t.images if t.rows > 1 else max(1, t.images // 2)}


class Problem:
    """One case with its data: ours by tile, theirs, and the reference."""

    def __init__(self, case: Case) -> None:
        self.case = case
        name, c, k, side, batch, self.precision = case
        self.dtype = torch.bfloat16 if self.precision == "bf16" else torch.float32
        self.tf32 = self.precision == "tf32"
        torch.backends.cudnn.allow_tf32 = True
        generator = torch.Generator(device="cuda").manual_seed(0)
        channels_last = {"memory_format": torch.channels_last}

        def random(*shape: int) -> torch.Tensor:
            return torch.randn(*shape, device="cuda", generator=generator).to(self.dtype).to(**channels_last)

        self.up = name.startswith("up_")
        small = side // 2 if self.up else side
        self.x, self.dy = random(batch, c, small, small), random(batch, k, side, side)
        self.w = random(c, k, 2, 2) if self.up else random(k, c, 3, 3)
        self.flops = 2 * batch * small * small * c * k * (4 if self.up else 9)

    def theirs(self) -> torch.Tensor:
        """PyTorch's result, through cuDNN, as an NHWC buffer."""
        mask = [self.case[0].endswith("dgrad"), self.case[0].endswith("wgrad"), False]
        stride, pad = ([2, 2], [0, 0]) if self.up else ([1, 1], [1, 1])
        if any(mask):
            grads = torch.ops.aten.convolution_backward(
                self.dy, self.x, self.w, None, stride, pad, [1, 1], self.up, [0, 0], 1, mask)  # fmt: skip
            result = grads[0] if mask[0] else grads[1]
        else:
            result = torch.ops.aten.convolution(self.x, self.w, None, stride, pad, [1, 1], self.up, [0, 0], 1)
        return result.permute(0, 2, 3, 1)

    def ours(self, tile: conv.Tile | None) -> torch.Tensor:
        """The same by our launchers."""
        x, dy, w = (t.permute(0, 2, 3, 1) for t in (self.x, self.dy, self.w))
        side = self.case[3]
        name = self.case[0]
        if name == "fwd":
            return conv.conv2d_fwd(x, w, padding=(1, 1, 1, 1), tile=tile, tf32=self.tf32)[0]
        if name == "dgrad":
            return conv.conv2d_dgrad(dy, w, input_size=(side, side), pad=(1, 1), tile=tile, tf32=self.tf32)
        if name == "wgrad":
            return conv.conv2d_wgrad(dy, x, kernel_size=(3, 3), pad=(1, 1), tile=tile, tf32=self.tf32)
        if name == "up_fwd":
            return conv.conv2d_dgrad(x, w, input_size=(side, side), stride=(2, 2), tile=tile, tf32=self.tf32)
        if name == "up_dgrad":
            return conv.conv2d_fwd(dy, w, stride=(2, 2), tile=tile, tf32=self.tf32)[0]
        return conv.conv2d_wgrad(x, dy, kernel_size=(2, 2), stride=(2, 2), tile=tile, tf32=self.tf32)

    def key(self) -> tuple[str, str]:
        """Where the tile table keeps this problem."""
        name, c, k, side, batch, _ = self.case
        if self.up:
            pass_ = {"up_fwd": "conv2d_dgrad", "up_dgrad": "conv2d_fwd", "up_wgrad": "conv2d_wgrad"}[name]
            g = conv.Geometry(batch, side, side, k, side // 2, side // 2, c, 2, 2, (2, 2), (0, 0), (1, 1))
        else:
            pass_ = f"conv2d_{name}"
            g = conv.Geometry(batch, side, side, c, side, side, k, 3, 3, (1, 1), (1, 1), (1, 1))
        return pass_, f"{g.key} {str(self.dtype).removeprefix('torch.')}"


def check(case: Case) -> list[tuple[conv.Tile, str]]:
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
    parser.add_argument("--out", type=Path, default=Path("bench/results"))
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--precision", default="bf16", choices=["bf16", "tf32"])
    parser.add_argument("--only", default="")
    parser.add_argument("--passes", default="fwd,dgrad,wgrad,up_fwd,up_dgrad,up_wgrad")
    parser.add_argument("--workers", type=int, default=12)
    options = parser.parse_args()
    passes = options.passes.split(",")
    cases: list[Case] = [
        (name, c, k, side, options.batch, options.precision) for name in passes
        for c, k, side in (UPS if name.startswith("up_") else LAYERS) if options.only in f"{c}-{k}"
    ]  # fmt: skip
    start = time.perf_counter()
    with multiprocessing.get_context("spawn").Pool(options.workers) as pool:
        verdicts = pool.map(check, cases, chunksize=1)
    print(f"checked in {time.perf_counter() - start:.0f} s", flush=True)
    options.out.mkdir(parents=True, exist_ok=True)
    table: dict[str, dict[str, Any]] = {}
    with (options.out / "sweep_conv2d.jsonl").open("w") as rows:
        for case, judged in zip(cases, verdicts, strict=True):
            problem = Problem(case)
            theirs = measure(problem.theirs, graph=True).median_ms
            timed = []
            for tile, wrong in judged:
                row: dict[str, Any] = {"case": case, "tile": dataclasses.asdict(tile), "error": wrong}
                if not wrong:
                    row["ms"] = measure(lambda p=problem, t=tile: p.ours(t), repeats=10, warmup=2, graph=True).median_ms
                    timed.append((row["ms"], tile))
                rows.write(json.dumps(row) + "\n")
            bad = sum(bool(wrong) for _, wrong in judged)
            best_ms, best = min(timed, key=lambda pair: pair[0])
            pass_, key = problem.key()
            table.setdefault(pass_, {})[key] = dataclasses.asdict(best)
            rule = measure(lambda p=problem: p.ours(None), repeats=10, warmup=2, graph=True).median_ms
            print(
                f"{case[0]:9} {case[1]:4}->{case[2]:<4} @{case[3]:<3} ours {problem.flops / best_ms / 1e9:4.0f} TFLOP/s "
                f"(rule {problem.flops / rule / 1e9:4.0f}) theirs {problem.flops / theirs / 1e9:4.0f} ratio {theirs / best_ms:.2f} "
                f"bad {bad}/{len(judged)} {tuple(dataclasses.astuple(best)[1:])}", flush=True,
            )  # fmt: skip
    (options.out / f"{runtime.arch()}.json").write_text(json.dumps(table, indent=1, sort_keys=True) + "\n")
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}, {time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    main()
