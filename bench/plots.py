"""The report's pictures, as SVG text."""

import io
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from bench.results import Row, latest, runs
from tritonnet.measure.machine import PEAKS

SHOWN = 14  # kernels of a step with a colour of their own


def svg(figure: Figure) -> str:
    """The figure as an element for a page."""
    with matplotlib.rc_context({"svg.fonttype": "none"}):
        out = io.StringIO()
        figure.savefig(out, format="svg", metadata={"Date": None})
    return out.getvalue()[out.getvalue().index("<svg") :]


def colours(names: list[str]) -> dict[str, Any]:
    """A colour a name."""
    wheel = matplotlib.colormaps["tab20"]
    return {name: wheel(i % 20) for i, name in enumerate(names)}


def roofline(rows: list[Row]) -> str | None:
    """Every kernel a point: products over FLOPs a byte, the others, which do none to speak of, over the bytes they move."""
    points = [r for r in latest(rows) if r.get("bytes") and r.get("ours_ms") and r.get("theirs_ms")]
    if not points:
        return None
    figure = Figure(figsize=(13, 5.5), layout="constrained")
    products, movers = figure.subplots(1, 2)
    groups: dict[str, list[Row]] = {}
    for row in points:
        groups.setdefault(f"{row['bench']} {row['dtype']}" if row["flops"] else row["bench"], []).append(row)
    colour = colours(list(groups))
    for name, of in groups.items():
        axes, amount, unit = (products, "flops", 1e9) if of[0]["flops"] else (movers, "bytes", 1e6)
        at = [r["flops"] / r["bytes"] if r["flops"] else r["bytes"] / 1e6 for r in of]
        for side, filled in (("theirs_ms", False), ("ours_ms", True)):
            axes.scatter(
                at, [r[amount] / r[side] / unit for r in of], s=26, edgecolors=[colour[name]], linewidths=1,
                facecolors=[colour[name]] if filled else "none", label=name if filled else None,
            )  # fmt: skip
    peak = PEAKS.get(points[-1]["gpu"])
    if peak and peak.flops:
        knee = peak.flops / peak.bytes
        products.plot(
            [knee / 300, knee, knee * 20], [peak.flops / 3e14, peak.flops / 1e12, peak.flops / 1e12], "k", lw=1
        )
        movers.axhline(peak.bytes / 1e9, color="k", lw=1)
    copies = sorted(
        (r["bytes"] / 1e6, r["bytes"] / r["copy_ms"] / 1e6) for r in points if r.get("copy_ms") and not r["flops"]
    )
    if copies:
        movers.plot(*zip(*copies, strict=True), "k.", ms=3, label="a plain copy")
    products.set(xscale="log", yscale="log", xlabel="FLOPs a byte", ylabel="TFLOP/s", title="products")
    movers.set(xscale="log", yscale="log", xlabel="MB moved", ylabel="GB/s", title="what is bound by bytes")
    for axes in (products, movers):
        axes.grid(alpha=0.3)
        if axes.collections:
            axes.legend(fontsize=7, ncols=2)
    return svg(figure)


def step_by_kernel(rows: list[Row]) -> str | None:
    """Each profiled step as a bar of its kernels."""
    profiles = [r for r in latest(rows) if r["bench"] == "profile"]
    if not profiles:
        return None
    total: dict[str, float] = {}
    for row in profiles:
        whole = sum(k["microseconds"] for k in row["kernels"]) or 1.0
        for k in row["kernels"]:
            total[k["name"]] = max(total.get(k["name"], 0.0), k["microseconds"] / whole)
    shown = sorted(total, key=lambda name: -total[name])[:SHOWN]
    colour = colours(shown)
    figure = Figure(figsize=(13, 1.4 + 0.5 * len(profiles)), layout="constrained")
    axes = figure.subplots()
    for i, row in enumerate(profiles):
        times = {k["name"]: k["microseconds"] for k in row["kernels"]}
        whole, left = sum(times.values()) or 1.0, 0.0
        for name in shown:
            share = times.get(name, 0.0) / whole
            axes.barh(i, share, left=left, color=colour[name], label=name.lstrip("_") if i == 0 else None)
            left += share
        axes.barh(i, 1 - left, left=left, color="0.8", label="the others" if i == 0 else None)
        axes.text(1.01, i, f"{whole / 1e3:.2f} ms", va="center", fontsize=8)
    axes.set_yticks(range(len(profiles)), [row["case"] for row in profiles], fontsize=8)
    axes.set(xlim=(0, 1.08), xlabel="share of the time on the device")
    axes.invert_yaxis()
    figure.legend(*axes.get_legend_handles_labels(), fontsize=7, loc="outside right center")
    return svg(figure)


def scaling(rows: list[Row]) -> str | None:
    """Milliseconds an image of the U-Net's training step over the batch, and over the image's side."""
    points: dict[tuple[int, int], Row] = {}
    for case, found in runs(rows, "step").items():
        model, batch, side, precision = case.split("-")
        of = [r for r in latest(found[-1]) if r.get("ours_ms")]
        if model == "unet" and precision == "bf16" and of:
            points[int(batch), int(side)] = min(of, key=lambda r: r["theirs_ms"])
    batches = [key for key in sorted(points) if key[1] == 256]
    sides = [key for key in sorted(points) if key[0] == 4]
    panels = [(batches, 0, "images a batch, 256x256"), (sides, 1, "pixels a side, 4 images")]
    panels = [panel for panel in panels if len(panel[0]) > 1]
    if not panels:
        return None
    figure = Figure(figsize=(5.5 * len(panels), 4), layout="constrained")
    for axes, (keys, part, label) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        for side, name in (("ours_ms", "ours"), ("theirs_ms", "PyTorch")):
            axes.plot([k[part] for k in keys], [points[k][side] / k[0] for k in keys], marker="o", label=name)
        axes.set(xscale="log", yscale="log", xlabel=label, ylabel="ms an image")
        axes.minorticks_off()
        axes.set_xticks([k[part] for k in keys], [str(k[part]) for k in keys])
        axes.grid(alpha=0.3)
        axes.legend()
    return svg(figure)
