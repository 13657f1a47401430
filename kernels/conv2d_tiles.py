"""How a convolution is cut into programs: its sizes, its tile, and the rule that picks one.

A tile comes from the architecture's table (`tile_table`), which `tritonnet tune` made, else from the rules
below, whose numbers come from the same sweeps: a problem near a swept one runs within a few per cent of its best.
"""

import functools
from dataclasses import asdict, dataclass
from typing import Any

import torch

from tritonnet.kernels import tile_table
from tritonnet.kernels.runtime import INTERPRET, arch, cdiv, multiprocessors, next_power_of_2, pitch, refuse
from tritonnet.kernels.tile_table import user_table

__all__ = [
    "Geometry", "Tile", "flattens", "kernel_form", "mappable", "pick_tile", "pixel_tile", "split_count", "wgrad_tiles",
]  # fmt: skip

LARGEST_BLOCK = 2**19  # elements of one block on the interpreter, which is fastest with few large programs


@dataclass(frozen=True)
class Tile:
    """How one pass is cut into programs.

    block_m x block_n is the output tile of the GEMM and block_k its step. For the forward and the input gradient m counts
    pixels and n output channels; for the weight gradient m counts channels of dy, n channels of x, and k pixels.
    """

    form: str  # "gather", "tensormap" or "patch"
    block_m: int
    block_n: int
    block_k: int
    num_warps: int
    num_stages: int
    splits: int = 1  # programs that share one tile of the output (weight gradient, tensormap)
    rows: int = (
        1  # tensormap: the pixel tile is images x rows x (pixels / images / rows); patch: rows x (pixels / rows)
    )
    images: int = 1
    # tensormap, where R is 3: in a weight gradient 3 are the taps of a column, which share a tile of dy; else they say that four
    # rows of pixels share what is read (the box is 1 x 4 x columns; rows without dilation)
    taps: int = 1
    whole: int = 0  # tensormap weight gradient: of its tiles, how many have a program each; the rest have `splits`


@dataclass(frozen=True)
class Geometry:
    """The sizes of one convolution; `pad` is what lies above and to the left, P and Q say the rest."""

    N: int
    H: int
    W: int
    C: int
    P: int
    Q: int
    K: int
    R: int
    S: int
    stride: tuple[int, int]
    pad: tuple[int, int]
    dilation: tuple[int, int]

    @property
    def key(self) -> str:
        """The name of this problem in a tile table."""
        window = f"{self.R}x{self.S}s{self.stride[0]}d{self.dilation[0]}"
        return f"{self.C}-{self.K} {window} {self.N}x{self.P}x{self.Q}"

    @property
    def flops(self) -> int:
        """Floating-point operations of each pass."""
        return 2 * self.N * self.P * self.Q * self.K * self.R * self.S * self.C


@functools.cache
def pick_tile(name: str, g: Geometry, dtype: torch.dtype, form: str, arch: str) -> Tile:
    """The tile for pass `name`, by table or rule; noted, for runs that store their tiles. Cached: every launch asks.

    Float32 by tensor map is scaled float16, "tf32" in a table; what is not there has bfloat16's tile, whose loop is the same.
    """
    tf32 = dtype == torch.float32 and form != "gather"
    names = ("tf32", "bfloat16") if tf32 else (str(dtype).removeprefix("torch."),)
    found = (tile_table.lookup(arch, name, f"{g.key} {numbers}") for numbers in names)
    usable = (f for f in found if f is not None and f.get("form") in ((form,) if tf32 else (form, "gather")))
    tile = _pick(name, g, dtype, form, arch, next(usable, None))
    tile_table.note(arch, name, f"{g.key} {names[0]}", asdict(tile))
    return tile


def _pick(name: str, g: Geometry, dtype: torch.dtype, form: str, arch: str, found: dict[str, Any] | None) -> Tile:
    if found is not None:
        try:
            return Tile(**found)
        except TypeError as error:
            refuse(
                "tiles", f"{g.key} must have a tile of this version's fields ({error}); tune again: {user_table(arch)}"
            )
    if name == "conv2d_wgrad":
        return _pick_wgrad(g, dtype, form, arch)
    pixels = g.N * (g.P * g.Q if name == "conv2d_fwd" else g.H * g.W)
    depth, width = (g.C, g.K) if name == "conv2d_fwd" else (g.K, g.C)
    if INTERPRET:
        block_k, block_n = min(max(next_power_of_2(depth), 16), 64), min(max(next_power_of_2(width), 16), 256)
        most = LARGEST_BLOCK // max(block_k, block_n)
        return Tile("gather", min(max(next_power_of_2(pixels), 16), most), block_n, block_k, 4, 1)
    step = 64  # channels a step of a tensor-map kernel: 128 bytes
    while depth % step:
        step //= 2
    if form == "patch":
        rows, columns = patch_box(g, 128)
        return Tile("patch", rows * columns, 128 if width > 64 else 64, step, 4, 3, rows=rows)
    if form == "tensormap":
        narrow = width <= 64
        side = (g.P, g.Q) if name == "conv2d_fwd" else (g.H, g.W)
        block_n, most = (64, 256) if narrow else (128, 128)
        programs, steps = cdiv(g.N * side[0] * side[1], most) * cdiv(width, block_n), g.R * g.S * depth // step
        stages, splits = 3 if most == 128 and not narrow else 2, 1
        if programs <= multiprocessors():  # each has one to itself: more loads in flight
            stages = 4
        if 2 * programs <= multiprocessors():
            most = 64
            programs = cdiv(g.N * side[0] * side[1], most) * cdiv(width, block_n)
            splits = max(1, min(2 * multiprocessors() // programs, steps // 16))
        elif most == 256 and arch == "sm_120":
            stages = min(stages, 3)  # four are more than its shared memory
        if narrow and name == "conv2d_fwd" and g.R == 3 and g.dilation[0] == 1 and depth % 32 == 0:
            # rows that share what is read, 64 bytes a step; others than sm_90 have fewer registers to give
            room = arch == "sm_90" or (arch != "sm_120" and dtype != torch.float32)
            if side[0] % 4 == 0 and side[1] % 64 == 0 and room:
                return Tile("tensormap", 256, 64, 32, 4, 2, rows=4, taps=3)
        images, rows, columns = pixel_tile(g.N, *side, most)
        # a tile stored as float32 takes more registers, and so do other architectures'
        warps = 8 if (splits > 1 and arch != "sm_90") or (most == 256 and dtype == torch.float32) else 4
        return Tile("tensormap", images * rows * columns, block_n, step, warps, stages, splits, rows, images)
    wide = dtype != torch.float32
    aligned = (
        depth % 8 == 0 and width % 8 == 0
    )  # else every element has an address of its own, and those take registers
    flat = name == "conv2d_fwd" and flattens(g.C)
    block_n = min(max(next_power_of_2(width), 16), 128 if wide else 64)
    block_k = 32 if flat and wide else 16 if depth < 32 or not aligned else 64 if depth >= 64 and wide else 32
    block_m = 128 if aligned and (wide or block_n <= 32) else 64
    heavy = (
        block_n >= 128
        or (arch == "sm_100" and not wide)
        or (name == "conv2d_dgrad" and (not wide or block_m * max(block_n, block_k) >= 8192 or min(depth, width) < 16))
    )
    return Tile("gather", block_m, block_n, block_k, 8 if heavy else 4, 3 if wide else 2)


def _pick_wgrad(g: Geometry, dtype: torch.dtype, form: str, arch: str) -> Tile:
    pixels = g.N * g.P * g.Q
    if INTERPRET:
        columns = g.R * g.S * g.C if flattens(g.C) else g.C
        block_m, block_n = (min(max(next_power_of_2(size), 16), 256) for size in (g.K, columns))
        most = LARGEST_BLOCK // max(block_m, block_n)
        return Tile("gather", block_m, block_n, min(max(next_power_of_2(pixels), 16), most), 4, 1)
    if form == "patch":
        rows, columns = patch_box(g, 64)
        block_m, block_n = (128 if g.K > 64 else 64), (128 if g.C % 128 == 0 else 64)
        programs = cdiv(g.K, block_m) * cdiv(g.C, block_n) * g.R * g.S
        splits = split_count(programs, cdiv(g.N * g.P, rows) * cdiv(g.Q, columns), 2)
        return Tile(
            "patch", block_m, block_n, rows * columns, 8 if arch == "sm_100" else 4, 2, splits=splits, rows=rows
        )
    if form == "tensormap":
        short = pixels <= 2**14 and max(g.C, g.K) > 64  # many small tiles rather than many shares
        column = g.R == 3 and max(g.C, g.K) <= 64  # three taps share one tile of dy: few channels gain by it
        few = arch in ("sm_100", "sm_120")  # the compiler has fewer registers to give there
        block_m = 128 if g.K > 64 and not short else 64
        block_n = 64 if column or g.C % 128 else 256 if g.C % 256 == 0 and block_m == 128 and not few else 128
        block_n = min(block_n, max(next_power_of_2(g.C), 16)) if g.S == 1 else block_n  # patches of few channels
        # of small tiles more pixels at once, so that as many bytes are on their way
        block_k = 128 if column and (block_n < 64 or arch != "sm_120") else 64
        images, rows, columns = pixel_tile(g.N, g.P, g.Q, block_k, wide=True)
        taps, warps = 3 if column else 1, 8 if block_m * block_n >= (16384 if few else 32768) else 4
        splits, whole = _shares(
            wgrad_tiles(g, block_m, block_n, taps),
            (1 if warps == 8 else 2) * multiprocessors(),
            cdiv(g.N, images) * cdiv(g.P, rows) * cdiv(g.Q, columns),
            1 if short else 3,
        )
        return Tile("tensormap", block_m, block_n, block_k, warps, 3, splits, rows, images, taps, whole)
    wide = dtype != torch.float32
    columns = g.R * g.S * g.C if flattens(g.C) else g.C
    block_m = min(max(next_power_of_2(g.K), 16), 128 if wide else 64)
    block_n = min(max(next_power_of_2(columns), 16), 128 if wide else 64)
    block_k = 64 if wide else 32
    programs = cdiv(g.K, block_m) * cdiv(columns, block_n) * (1 if flattens(g.C) else g.R * g.S)
    splits = split_count(programs, cdiv(pixels, block_k), 4)
    return Tile(
        "gather", block_m, block_n, block_k, 8 if block_m * block_n >= 16384 else 4, 3 if wide else 2, splits=splits
    )


def wgrad_tiles(g: Geometry, block_m: int, block_n: int, taps: int) -> int:
    """Tiles of a weight gradient whose programs have one tap each, or the `taps` of a column."""
    return cdiv(g.K, block_m) * cdiv(g.C, block_n) * g.R * g.S // taps


def _shares(tiles: int, wave: int, steps: int, most: int) -> tuple[int, int]:
    """(splits, whole): whole waves of tiles have a program each; up to `most` waves, as full as can be, share the rest."""
    whole = tiles // wave * wave
    rest = max(tiles - whole, 1)
    # a wave more costs more partial sums than a twentieth of its programs left idle
    waves = max(range(1, most + 1), key=lambda n: n * wave // rest * rest / (n * wave) - n / 20)
    splits = max(1, min(waves * wave // rest, steps // 8))
    return cdiv(steps, cdiv(steps, splits)), whole  # the last of them have steps too


def split_count(programs: int, steps: int, waves: int) -> int:
    """How many programs share one tile of dw: enough for `waves` programs a multiprocessor, at least 8 steps each."""
    return max(1, min(cdiv(waves * multiprocessors(), programs), steps // 8))


def flattens(channels: int) -> bool:
    """Whether taps and channels are one GEMM axis: with so few channels a tap alone would fill too little of a step."""
    return channels < 8 if INTERPRET else channels < 16


def pixel_tile(n: int, height: int, width: int, pixels: int, wide: bool = False) -> tuple[int, int, int]:
    """Images, rows and columns (powers of two, product `pixels`) that waste least; then the squarest, or the widest."""
    best: tuple[float, int, tuple[int, int, int]] | None = None
    columns = 1
    while columns <= pixels:
        for rows in (1 << i for i in range((pixels // columns).bit_length())):
            images = pixels // columns // rows
            covered = cdiv(n, images) * images * cdiv(height, rows) * rows * cdiv(width, columns) * columns
            rank = (covered, images * 1000 + (-columns if wide else abs(columns - 2 * rows)), (images, rows, columns))
            best = rank if best is None else min(best, rank)
        columns *= 2
    assert best is not None
    return best[2]


def patch_box(g: Geometry, pixels: int) -> tuple[int, int]:
    """Rows and columns of a patch kernel's pixel tile: as wide as the image, since its rows of all images are one axis."""
    columns = min(next_power_of_2(g.Q), pixels)
    return pixels // columns, columns


def mappable(x: torch.Tensor) -> bool:
    """Whether a tensor map can describe the buffer: it wants rows of 16 bytes."""
    return x.data_ptr() % 16 == 0 and pitch(x) * x.element_size() % 16 == 0


def kernel_form(g: Geometry, buffers: tuple[torch.Tensor, ...], tf32: bool) -> str:
    """Which kernels take this problem best. Tensor maps want channels in multiples of 16, and no IEEE float32 products."""
    hopper = arch().startswith("sm_") and int(arch()[3:]) >= 90
    fits = g.C % 16 == 0 and g.K % 16 == 0 and all((b.dtype != torch.float32 or tf32) and mappable(b) for b in buffers)
    if not hopper or not fits or 0 in (g.N, g.H, g.W, g.P, g.Q):  # a tensor map has no empty side
        return "gather"
    if g.stride == (1, 1):
        return "tensormap"
    whole = (g.H, g.W) == (g.P * g.R, g.Q * g.S) and g.pad == (0, 0) and g.dilation == (1, 1)
    return "patch" if whole and g.stride == (g.R, g.S) else "gather"
