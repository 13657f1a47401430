"""What the rows say: the latest of each case, the best PyTorch, whole tables."""

import re
from collections.abc import Iterable
from typing import Any

Row = dict[str, Any]
CONVOLUTION = re.compile(r"(?P<name>\w+) (?P<c>\d+)-(?P<k>\d+)@(?P<side>\d+) batch(?P<n>\d+) (?P<precision>\w+)")
NETWORKS = {
    "unet": "U-Net of 31 M parameters",
    "recompute": "the same with recompute()",
    "poster": "poster's network",
    "mlp": "MLP of MNIST",
    "overfeat": "Overfeat [fast]",
}


def latest(rows: Iterable[Row]) -> list[Row]:
    """The last row of each case and peer, in the order in which they first came."""
    return list({(r["bench"], r["case"], r.get("peer")): r for r in rows}.values())


def runs(rows: Iterable[Row], kind: str) -> dict[str, list[list[Row]]]:
    """The rows of each case of a kind, a list a run: a run is what one commit measured on one day."""
    cases: dict[str, dict[Any, list[Row]]] = {}
    for row in rows:
        if row["bench"] == kind and "peer" in row:
            cases.setdefault(row["case"], {}).setdefault((row["date"], row.get("commit")), []).append(row)
    return {case: list(found.values()) for case, found in cases.items()}


def best(run: list[Row]) -> Row | None:
    """Of a run, the row of the fastest PyTorch, with ours as a graph; None where ours was not recorded."""
    recorded = [row for row in latest(run) if row.get("ours_ms")]
    if not recorded:
        return None
    peer = min(latest(run), key=lambda row: row["theirs_ms"])
    ours = peer if peer.get("ours_ms") else recorded[-1]
    return {**ours, "theirs_ms": peer["theirs_ms"], "peer": peer["peer"], "ratio": peer["theirs_ms"] / ours["ours_ms"]}


def title(case: str) -> str:
    """A case in words."""
    model, batch, side, precision = case.split("-")
    return f"{NETWORKS[model]}, {side}x{side}, batch {batch}, {precision}"


def network_table(rows: list[Row], kind: str) -> list[list[str]]:
    """Ours and the best PyTorch, a row a case, the header first; the header alone where nothing was measured."""
    table = [
        ["network", "ours, ms", "PyTorch's best, ms", "theirs / ours", "of all runs", "peak memory, ours / theirs, GiB"]
    ]
    for case, found in runs(rows, kind).items():
        peers = [{row["peer"] for row in run} for run in found]
        # a run that timed fewer peers beside ours says less
        found = [run for run, names in zip(found, peers, strict=True) if len(names) == max(map(len, peers))]
        bests = [b for b in map(best, found) if b]
        if bests:
            now, ratios = bests[-1], [b["ratio"] for b in bests]
            memory = [r.get("theirs_gib") for r in latest(found[-1]) if r.get("theirs_gib")]
            table.append([
                title(case), f"{now['ours_ms']:.3g}", f"{now['theirs_ms']:.3g} ({now['peer']})", f"{now['ratio']:.2f}",
                f"{min(ratios):.2f} to {max(ratios):.2f}" if len(ratios) > 1 else "one run",
                f"{now['ours_gib']:.2f} / {min(memory):.2f}" if memory and now.get("ours_gib") else "",
            ])  # fmt: skip
    return table


def convolution_table(rows: list[Row]) -> list[list[str]]:
    """Ours as a share of cuDNN's speed, all layers of a row together, least and most of a layer."""
    kinds = {
        "": "3x3",
        "up_": "2x2 stride 2 transposed",
        "first_": "3x3, 3 channels in",
        "last_": "1x1, 2 channels out",
    }
    found: dict[tuple[str, str, str], dict[str, list[Row]]] = {}
    for row in latest(r for r in rows if r["bench"] == "conv2d"):
        match = CONVOLUTION.fullmatch(row["case"])
        assert match, row["case"]
        kind, _, name = match["name"].rpartition("_")
        kind += "_" * bool(kind)
        found.setdefault((kind, match["n"], match["precision"]), {}).setdefault(name, []).append(row)
    table = [["convolutions", "forward", "input gradient", "weight gradient"]]
    for (kind, batch, precision), passes in found.items():
        layers = max(map(len, passes.values()))
        line = [f"{kinds[kind]}, {layers} layer{'s' * (layers > 1)}, batch {batch}, {precision}"]
        for name in ("fwd", "dgrad", "wgrad"):
            of = passes.get(name)
            if not of:
                line.append("")
                continue
            ratios = [r["ratio"] for r in of]
            whole = sum(r["theirs_ms"] for r in of) / sum(r["ours_ms"] for r in of)
            line.append(f"{whole:.2f} ({min(ratios):.2f} to {max(ratios):.2f})" if len(of) > 1 else f"{ratios[0]:.2f}")
        table.append(line)
    return table


def kernel_table(rows: list[Row]) -> list[list[str]]:
    """Every kernel with its rates, the header first."""
    columns = {
        "ours_ms": ("ours, ms", ".4f"), "theirs_ms": ("theirs, ms", ".4f"), "ratio": ("theirs / ours", ".2f"),
        "tflops": ("TFLOP/s", ".0f"), "gbytes_per_s": ("GB/s", ".0f"), "of_peak": ("of roofline", ".0%"),
        "of_copy": ("of a copy", ".0%"), "sm_clock_mhz": ("SM clock, MHz", "d"),
    }  # fmt: skip
    table = [["operation", "case", *(name for name, _ in columns.values()), "date", "commit"]]
    for row in latest(rows):
        if row.get("ours_ms") and row.get("theirs_ms") and "peer" not in row:
            numbers = [format(row[k], form) if row.get(k) is not None else "" for k, (_, form) in columns.items()]
            table.append([row["bench"], row["case"], *numbers, row["date"], row.get("commit") or ""])
    return table


def peer_table(rows: list[Row]) -> list[list[str]]:
    """Every network beside every peer, the header first."""
    table = [
        [
            "kind",
            "case",
            "peer",
            "ours, ms",
            "kernel by kernel",
            "theirs, ms",
            "theirs / ours",
            "set-up, s",
            "",
            "commit",
        ]
    ]
    for row in latest(rows):
        if "peer" in row:
            numbers = [row.get(key) for key in ("ours_ms", "ours_eager_ms", "theirs_ms", "ratio", "setup_s")]
            cells = [f"{n:.4g}" if n is not None else "" for n in numbers]
            note = "reused" if row.get("reused") else ""
            table.append([row["bench"], row["case"], row["peer"], *cells, note, row.get("commit") or ""])
    return table


def versions(rows: Iterable[Row]) -> str:
    """What the rows were measured with, in words."""
    said = []
    for row in rows:
        cudnn = f" with cuDNN {row['cudnn'] // 10000}.{row['cudnn'] // 100 % 100}" if row.get("cudnn") else ""
        said.append(f"{row['gpu']}, torch {row['torch'].split('+')[0]}{cudnn}, triton {row['triton']}, {row['date']}")
    return "; ".join(dict.fromkeys(said))
