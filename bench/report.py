"""Results as one HTML page, or as the tables of the README.

    python -m bench.report [ROWS.jsonl ...] --out report.html     roofline, steps by kernel, cost as work grows, every ratio
    python -m bench.report [ROWS.jsonl ...] --readme              rewrite the marked block of README.md

Without ROWS all committed ones are read (bench/results/*.jsonl). Of a case the latest row counts.
"""

import argparse
import sys
from html import escape
from pathlib import Path

from bench import plots, results
from bench.bench_overfeat import HISTORIC
from bench.results import Row
from bench.rows import RESULTS, read

ROOT = Path(__file__).resolve().parent.parent
BEGIN, END = "<!-- bench: written by `python -m bench.report --readme` -->", "<!-- bench: end -->"
KINDS = {"step": "A training step", "forward": "Inference", "gradients": "Forward and backward, without optimizer"}
STYLE = """body { font: 14px sans-serif; max-width: 1250px; margin: 2em auto; color: #222 }
table { border-collapse: collapse; margin: 1em 0 } td, th { padding: 2px 9px; border-bottom: 1px solid #ddd; text-align: right }
td:first-child, th:first-child, td:nth-child(2), th:nth-child(2) { text-align: left } svg { max-width: 100%; height: auto }"""


def html_table(table: list[list[str]]) -> str:
    """A table with its header first; a ratio below 1 in red."""
    head, *body = table
    if not body:
        return ""
    ratio = head.index("theirs / ours") if "theirs / ours" in head else -1
    lines = ["<tr>" + "".join(f"<th>{escape(cell)}</th>" for cell in head) + "</tr>"]
    for cells in body:
        slow = [i == ratio and bool(cell) and float(cell) < 1 for i, cell in enumerate(cells)]
        marks = [' style="color: #b00"' if s else "" for s in slow]
        lines.append("<tr>" + "".join(f"<td{m}>{escape(c)}</td>" for m, c in zip(marks, cells, strict=True)) + "</tr>")
    return "<table>" + "\n".join(lines) + "</table>"


def overfeat_table(rows: list[Row]) -> list[list[str]]:
    """Ours and PyTorch's Overfeat of each run's last rows above the figures of 2015; the header alone without rows."""
    table = [["Overfeat [fast], 128 images", "", "total, ms", "forward", "backward"]]
    for precision in ("bf16", "tf32"):
        case = f"overfeat-128-231-{precision}"
        both = [results.runs(rows, kind).get(case) for kind in ("forward", "gradients")]
        bests = [results.best(found[-1]) if found else None for found in both]
        if bests[0] and bests[1]:
            for key, name in (("ours_ms", "ours"), ("theirs_ms", "PyTorch's best")):
                forward, total = bests[0][key], bests[1][key]
                numbers = [f"{t:.2f}" for t in (total, forward, total - forward)]
                table.append([f"{name}, {precision}", bests[1]["gpu"], *numbers])
    return (
        table + [[name, "in 2015", *map(str, times)] for name, times in HISTORIC.items()] if len(table) > 1 else table
    )


def page(rows: list[Row]) -> str:
    """The whole report."""
    starts = [["start of the program", "seconds"]]
    starts += [[r["case"], f"{r['seconds']:.1f}"] for r in results.latest(rows) if r["bench"] == "startup"]
    parts = {
        "Every kernel against the roofline": plots.roofline(rows),
        **{name: html_table(results.network_table(rows, kind)) for kind, name in KINDS.items()},
        "Steps by kernel": plots.step_by_kernel(rows),
        "Cost as work grows": plots.scaling(rows),
        "Overfeat": html_table(overfeat_table(rows)),
        "Start": html_table(starts),
        "Convolutions as a share of cuDNN's speed": html_table(results.convolution_table(rows)),
        "Kernels": html_table(results.kernel_table(rows)),
        "Networks beside each of PyTorch's ways": html_table(results.peer_table(rows)),
    }
    body = "\n".join(f"<h2>{escape(name)}</h2>\n{part}" for name, part in parts.items() if part)
    said = escape(results.versions(rows))
    about = "Filled points are ours, hollow ones PyTorch's. theirs / ours above 1: ours is faster."
    head = f'<!doctype html><html lang="en"><meta charset="utf-8"><title>tritonnet benchmarks</title><style>{STYLE}</style>'
    return f"{head}<h1>tritonnet benchmarks</h1><p>{said}. {about}</p>\n{body}\n</html>\n"


def markdown(table: list[list[str]]) -> str:
    """A table as Markdown, its empty columns left out."""
    columns = [column for column in zip(*table, strict=True) if any(column[1:])]
    head, *body = zip(*columns, strict=True)
    return "\n".join("| " + " | ".join(line) + " |" for line in (head, ["--"] * len(head), *body))


def readme_block(rows: list[Row]) -> str:
    """What stands between the marks in README.md."""
    parts = [f"{results.versions(rows)}. Ours and PyTorch's in one run, of each case the last; above 1 ours is faster."]
    for kind, name in KINDS.items():
        table = results.network_table(rows, kind)
        if len(table) > 1:
            parts += [f"{name}, ours as one CUDA graph:", markdown(table)]
    table = results.convolution_table(rows)
    if len(table) > 1:
        about = "Convolutions of the U-Net, as a share of cuDNN's speed (a row's layers together; least and most of a layer):"
        parts += [about, markdown(table)]
    return "\n\n".join([BEGIN, *parts, END])


def rewrite(readme: Path, rows: list[Row]) -> None:
    """Put the block of these rows in place of the one that stands there."""
    text = readme.read_text()
    if text.count(BEGIN) != 1 or text.count(END) != 1:
        sys.exit(f"{readme}: must hold the marks once each: {BEGIN} and {END}")
    before, rest = text.split(BEGIN)
    readme.write_text(before + readme_block(rows) + rest.split(END)[1])


def main() -> None:
    """From the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", nargs="*", type=Path)
    parser.add_argument("--out", type=Path, help="write the page")
    parser.add_argument("--readme", action="store_true", help="rewrite the README's block")
    options = parser.parse_args()
    if not options.out and not options.readme:
        parser.error("--out FILE or --readme must be given")
    paths = options.rows or sorted(RESULTS.glob("*.jsonl"))
    rows = read(paths)
    if not rows:
        parser.error("there must be rows: a benchmark on a GPU writes them")
    if options.out:
        options.out.write_text(page(rows))
        print(f"{options.out}: {len(rows)} rows")
    if options.readme:
        rewrite(ROOT / "README.md", rows)


if __name__ == "__main__":
    main()
