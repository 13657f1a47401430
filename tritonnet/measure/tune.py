"""The fastest tiles of a network's convolutions on this GPU, found by trying: `tritonnet tune`.

Every candidate is compiled and checked against the kernels that gather through pointers by worker processes, then timed by this
one, one after another. A candidate that does not compile, or errs by more than 1e-2 in norm, is never chosen.
"""

import itertools
import multiprocessing
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch

from tritonnet.kernels.conv2d import conv2d_dgrad, conv2d_fwd, conv2d_wgrad
from tritonnet.kernels.conv2d_tiles import Geometry, Tile, pick_tile, split_count, wgrad_tiles
from tritonnet.kernels.runtime import arch, cdiv, multiprocessors, next_power_of_2
from tritonnet.kernels.scaled import scaled
from tritonnet.measure.timer import measure
from tritonnet.ops import mse_loss, randn, relu

__all__ = ["Problem", "candidates", "tune"]

Buffer = torch.Tensor
# block_n, block_m, warps, stages
FORWARD = [
    (128, 128, 4, 3), (128, 128, 4, 4), (128, 128, 8, 3), (128, 256, 8, 3), (128, 256, 8, 4), (64, 256, 4, 2),
    (64, 256, 4, 3), (64, 256, 8, 3), (64, 128, 4, 3), (64, 128, 4, 4), (256, 128, 8, 3), (128, 64, 4, 4), (64, 64, 4, 4),
]  # fmt: skip
# block_m, block_n, pixels a step, warps, stages, taps
WEIGHTS = [
    (128, 128, 64, 4, 2, 1), (128, 128, 64, 4, 3, 1), (128, 128, 64, 8, 3, 1), (128, 128, 128, 8, 2, 1), (128, 256, 64, 8, 3, 1),
    (256, 128, 64, 8, 3, 1), (64, 64, 64, 4, 3, 1), (128, 64, 64, 4, 3, 1), (64, 128, 64, 4, 3, 1),
    (64, 64, 64, 4, 3, 3), (64, 64, 128, 4, 2, 3), (64, 64, 128, 4, 3, 3), (128, 64, 64, 8, 3, 3), (128, 64, 64, 4, 2, 3),
    (128, 64, 128, 8, 2, 3), (64, 128, 64, 4, 2, 3), (64, 128, 64, 8, 3, 3), (64, 128, 128, 8, 2, 3), (128, 128, 64, 8, 2, 3),
    # patches of few channels
    (64, 16, 64, 4, 3, 3), (64, 16, 64, 4, 4, 3), (64, 16, 128, 4, 3, 3), (64, 16, 128, 8, 3, 3), (64, 16, 256, 4, 2, 3),
    (64, 32, 64, 4, 3, 1), (64, 32, 128, 4, 3, 1), (64, 16, 64, 4, 3, 1), (64, 16, 128, 4, 3, 1),
]  # fmt: skip


def candidates(name: str, g: Geometry, dtype: torch.dtype, form: str) -> list[Tile]:
    """The tiles worth trying for a pass (`conv2d_fwd`, `conv2d_dgrad`, `conv2d_wgrad`), the one in use first."""
    now = pick_tile(name, g, dtype, form, arch())
    tiles: Iterable[Tile]
    if form != "gather":
        tiles = _weight_tiles(g, form) if name == "conv2d_wgrad" else _forward_tiles(name, g, now)
    elif name == "conv2d_wgrad":
        tiles = (
            replace(now, block_k=pixels, num_warps=warps, splits=max(1, now.splits * share // 2))
            for pixels, warps, share in itertools.product((64, 128, 256, 512), (2, 4, 8), (1, 2, 4))
        )
    else:
        sizes = itertools.product((64, 128, 256, 512), (2, 4, 8))
        tiles = (replace(now, block_m=pixels, num_warps=warps) for pixels, warps in sizes)
    return list(dict.fromkeys([now, *tiles]))


def _forward_tiles(name: str, g: Geometry, now: Tile) -> Iterable[Tile]:
    """Every block size with boxes of a few shapes, and where programs are few, several for a tile."""
    width = g.K if name == "conv2d_fwd" else g.C
    height, across = (g.H, g.W) if name == "conv2d_dgrad" and now.form == "tensormap" else (g.P, g.Q)
    for block_n, block_m, warps, stages in FORWARD:
        for columns in sorted({16, 32, min(next_power_of_2(across), block_m)}):
            rows = block_m // columns
            # a patch's rows are those of all images
            images = max(1, rows // next_power_of_2(height)) if now.form == "tensormap" else 1
            if block_n > max(width, 64) or columns >= 2 * across or rows > 4 * columns or images > g.N:
                continue
            tile = Tile(now.form, block_m, block_n, now.block_k, warps, stages, rows=rows // images, images=images)
            yield tile
            programs = cdiv(g.N * height * across, block_m) * cdiv(width, block_n)
            for splits in (2, 3, 4, 6, 8, 12, 16):
                if now.form == "tensormap" and programs * splits <= 2 * multiprocessors():
                    yield replace(tile, splits=splits)
    if now.form == "tensormap" and width <= 128 and g.R == 3 and g.dilation[0] == 1:  # rows that share what is read
        step = now.block_k if now.taps == 3 else now.block_k // 2
        for columns, stages in itertools.product((32, 64), (2, 3)):
            yield Tile(now.form, 4 * columns, 64, max(step, 16), 4, stages, rows=4, taps=3)


def _weight_tiles(g: Geometry, form: str) -> Iterable[Tile]:
    """Rows of dw are channels of dy, columns those of x; whole waves of tiles alone, or all of them shared."""
    for block_m, block_n, pixels, warps, stages, taps in WEIGHTS:
        if block_m > max(g.K, 64) or block_n > max(g.C, 64) or (taps > 1 and (form == "patch" or g.R != 3)):
            continue
        if block_n < 64 and (g.S > 1 or block_n != max(next_power_of_2(g.C), 16)):
            continue
        rows = max(1, pixels // next_power_of_2(g.Q))
        images = max(1, rows // next_power_of_2(g.P)) if form == "tensormap" else 1
        tiles, steps = wgrad_tiles(g, block_m, block_n, taps), cdiv(g.N * g.P * g.Q, pixels)
        shares = {(split_count(tiles, steps, waves), 0) for waves in (1, 2, 4)}
        if form == "tensormap":
            for wave, waves in itertools.product([i * multiprocessors() for i in (1, 2, 3)], (1, 2, 3, 4)):
                for whole in (0, tiles // wave * wave):
                    splits = waves * wave // max(1, tiles - whole)
                    if splits == 1 or 1 < splits <= steps // 4:
                        shares.add((splits, whole))
        for splits, whole in sorted(shares):
            yield Tile(form, block_m, block_n, pixels, warps, stages, splits, rows // images, images, taps, whole)


@dataclass(frozen=True)
class Problem:
    """One pass of one convolution: `key` is its name in a tile table, "C-K RxSs<stride>d<dilation> NxPxQ dtype" (or tf32)."""

    name: str
    key: str
    form: str

    def sizes(self) -> tuple[Geometry, torch.dtype]:
        """Its sizes; padding, which a table leaves out and a tile's speed does not depend on, as keeps an image's size."""
        channels, window, sizes, dtype = self.key.split()
        (c, k), (n, p, q) = map(int, channels.split("-")), map(int, sizes.split("x"))
        taps, stride, dilation = window.replace("d", "s").split("s")
        (r, s), step, spread = map(int, taps.split("x")), int(stride), int(dilation)
        pad = tuple(spread * (t - 1) // 2 if step == 1 else 0 for t in (r, s))
        h, w = ((o - 1) * step + spread * (t - 1) + 1 - 2 * a for o, t, a in zip((p, q), (r, s), pad, strict=True))
        g = Geometry(n, h, w, c, p, q, k, r, s, (step, step), (pad[0], pad[1]), (spread, spread))
        return g, torch.float32 if dtype == "tf32" else getattr(torch, dtype)

    def call(self) -> Callable[[Tile | None], Buffer]:
        """The pass over random numbers, by a tile."""
        g, dtype = self.sizes()
        window: dict[str, Any] = {"stride": g.stride, "dilation": g.dilation, "tf32": dtype == torch.float32}
        room = g.C if self.form == "gather" else cdiv(g.C, 8) * 8  # patches: fewer channels count than lie there
        x = relu(randn(g.N, room, g.H, g.W)).to(dtype).data[..., : g.C]
        dy, w = randn(g.N, g.K, g.P, g.Q).to(dtype).data, randn(g.K, g.C, g.R, g.S).to(dtype).data
        a, b = (x, w) if self.name == "conv2d_fwd" else (dy, w if self.name == "conv2d_dgrad" else x)
        # scaling is no part of a pass's time; the pointer kernels read float32
        ready = (scaled(a), scaled(b)) if self.key.endswith("tf32") else (a, b)

        def operands(tile: Tile | None) -> Any:
            return (a, b) if tile is not None and tile.form == "gather" else ready

        if self.name == "conv2d_fwd":
            edges = (g.pad[0], g.pad[0], g.pad[1], g.pad[1])
            return lambda tile: conv2d_fwd(*operands(tile), padding=edges, tile=tile, **window)[0]
        window["pad"] = g.pad
        if self.name == "conv2d_dgrad":
            return lambda tile: conv2d_dgrad(*operands(tile), input_size=(g.H, g.W), tile=tile, **window)[0]
        return lambda tile: conv2d_wgrad(*operands(tile), kernel_size=(g.R, g.S), tile=tile, **window)


def _check(problem: Problem) -> list[Tile]:
    """The candidates that compile and compute what the pointer kernels do; after an illegal access, those found before."""
    g, dtype = problem.sizes()
    right: list[Tile] = []
    with suppress(RuntimeError):
        call = problem.call()
        expected = call(pick_tile(problem.name, g, dtype, "gather", arch()))
        norm = mse_loss(_vector(expected), _vector(expected) * 0.0).item()
        for tile in candidates(problem.name, g, dtype, problem.form):
            with suppress(Exception):  # whatever the compiler says: this tile is none
                if mse_loss(_vector(call(tile)), _vector(expected)).item() <= 1e-4 * norm:
                    right.append(tile)
    return right


def _vector(buffer: Buffer) -> Any:
    from tritonnet.autograd import Tensor

    return Tensor(buffer.view(-1)).to(torch.float32)


def tune(
    problems: list[Problem], workers: int, tell: Callable[[str], None], clock: Callable[..., float] | None = None
) -> dict[str, dict[str, dict[str, Any]]]:
    """The fastest tile of each problem, as a tile table: table[pass][key] = the Tile's fields.

    Args:
        problems: what to tune.
        workers: processes that compile and check, at least 1; 0 does it in this one.
        tell: gets a line a problem: microseconds before and after.
        clock: milliseconds of a call; by default the median of ten replays of a CUDA graph.
    """
    clock = clock or (lambda call: measure(call, repeats=10, warmup=2, graph=True).median_ms)
    if workers:
        with multiprocessing.get_context("spawn").Pool(workers) as pool:
            right = pool.map(_check, problems, chunksize=1)
    else:
        right = [_check(problem) for problem in problems]
    table: dict[str, dict[str, dict[str, Any]]] = {}
    for problem, tiles in zip(problems, right, strict=True):
        if tiles:  # the first is the one in use
            call = problem.call()
            times = [clock(lambda call=call, tile=tile: call(tile)) for tile in tiles]
            best = min(range(len(tiles)), key=times.__getitem__)
            table.setdefault(problem.name, {})[problem.key] = asdict(tiles[best])
            tell(
                f"{problem.name} {problem.key}: {times[0] * 1e3:.1f} -> {times[best] * 1e3:.1f} us of {len(tiles)} tiles"
            )
    return table
