"""Results: a JSON object a line, written as soon as it is measured."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from bench.cases import Case
from tritonnet.measure import compare, environment, peak
from tritonnet.measure.machine import plain_copy, sm_clock

RESULTS = Path(__file__).resolve().parent / "results"
ROUNDS, REPEATS = 5, 5


class Rows:
    """Appends rows to a file, each with GPU, versions, date and commit, and keeps them for the table."""

    def __init__(self, path: Path | None = None) -> None:
        self.environment = environment()
        gpu = str(self.environment["gpu"]).lower().replace(" ", "-")
        self.path = path or RESULTS / f"{self.environment['date']}-{gpu}.jsonl"
        self.rows: list[dict[str, Any]] = []

    def add(self, bench: str, case: str, **values: Any) -> dict[str, Any]:
        """Write one row now."""
        row = {"bench": bench, "case": case, **values, **self.environment}
        self.rows.append(row)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a") as file:
            file.write(json.dumps(row) + "\n")
        return row

    def time(self, bench: str, name: str, case: Case, **more: Any) -> dict[str, Any]:
        """Time a case, ours and theirs in turns, and a copy of as many bytes where bytes are its bound; `more` is kept too."""
        best, calls = peak(), [case.ours, case.theirs]
        bound_by_bytes = not case.flops or (
            best.flops is not None and case.flops / best.flops < case.bytes / best.bytes
        )
        if bound_by_bytes:
            calls.append(plain_copy(case.bytes))
        mine, peer, *copies = compare(calls, rounds=ROUNDS, repeats=REPEATS, graph=True)
        floor = best.floor_ms(case.flops, case.bytes, case.dtype)
        return self.add(
            bench, name, ours_ms=round(mine.median_ms, 5), theirs_ms=round(peer.median_ms, 5),
            ours_spread=round(mine.spread, 3), theirs_spread=round(peer.spread, 3),
            ratio=round(peer.median_ms / mine.median_ms, 3), repeats=mine.repeats, graph=True,
            flops=case.flops, bytes=case.bytes, dtype=str(case.dtype).removeprefix("torch."),
            tflops=round(case.flops / mine.median_ms / 1e9, 1) or None,
            gbytes_per_s=round(case.bytes / mine.median_ms / 1e6) or None,
            of_peak=round(floor / mine.median_ms, 3) if floor is not None else None,
            copy_ms=round(copies[0].median_ms, 5) if copies else None,
            of_copy=round(copies[0].median_ms / mine.median_ms, 3) if copies else None,
            sm_clock_mhz=sm_clock(case.ours), **more,
        )  # fmt: skip


def read(paths: Iterable[Path]) -> list[dict[str, Any]]:
    """The rows of files, oldest first as written; what stands twice (a file named twice, say) counts once."""
    lines = dict.fromkeys(line for path in paths for line in path.read_text().splitlines() if line.strip())
    return [json.loads(line) for line in lines]


def text_table(rows: list[dict[str, Any]]) -> str:
    """Rows as text: times, ratio, rates, share of the roofline and of a copy."""
    lines = [
        f"{'':26}{'case':30}{'ours ms':>10}{'theirs':>10}{'ratio':>7}{'TFLOP/s':>9}{'GB/s':>7}{'of peak':>9}{'of copy':>9}"
    ]
    for row in rows:
        numbers = [row.get(key) for key in ("tflops", "gbytes_per_s", "of_peak", "of_copy")]
        forms = ("9.0f", "7.0f", "9.0%", "9.0%")
        cells = [" " * int(f.split(".")[0]) if n is None else format(n, f) for n, f in zip(numbers, forms, strict=True)]
        if row.get("ours_ms") and row.get("theirs_ms"):
            case = row["case"] + (f" {row['peer']}" if "peer" in row else "")
            times = f"{row['ours_ms']:10.4f}{row['theirs_ms']:10.4f}{row['ratio']:7.2f}"
            lines.append(f"{row['bench'][:25]:26}{case[:29]:30}{times}{''.join(cells)}".rstrip())
    return "\n".join([*lines, "ratio: theirs / ours, above 1 ours is faster"])
