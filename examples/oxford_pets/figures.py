"""The report's pictures, as PNG and JPEG."""

import base64
import io
import math
from collections.abc import Sequence

from matplotlib.figure import Figure
from PIL import Image, ImageDraw

from oxford_pets.intervals import interval
from oxford_pets.jobs import Row

NAMES = {"tritonnet": "tritonnet", "torch-benchmark": "PyTorch"}
SIDE = 160  # of a test image, pixels
LINES = {  # PyTorch's dashes stay visible on ours
    ("tritonnet", "adam"): ("-", "tab:blue"), ("torch-benchmark", "adam"): ("--", "navy"),
    ("tritonnet", "sgd"): ("-", "tab:orange"), ("torch-benchmark", "sgd"): ("--", "saddlebrown"),
}  # fmt: skip


def curves(rows: Sequence[Row]) -> bytes:
    """Training loss and validation IoU of both optimizers and frameworks, one over the other."""
    figure = Figure(figsize=(12, 4.5), layout="constrained")
    panels = figure.subplots(1, 2)
    for name, axes, title in zip(("train_loss", "val_iou"), panels, ("training loss", "validation IoU"), strict=True):
        for (framework, optimizer), (style, colour) in LINES.items():
            of = [r[name] for r in rows if (r["job"].framework, r["job"].optimizer) == (framework, optimizer)]
            points = [interval(values) for values in zip(*of, strict=False)]
            epochs, means = range(1, len(points) + 1), [mean for mean, _ in points]
            halves = [0.0 if math.isnan(half) else half for _, half in points]
            if points:
                axes.plot(
                    epochs, means, style, color=colour, label=f"{NAMES[framework]}, {optimizer} ({len(of)} seeds)"
                )
                low, high = ([m + sign * h for m, h in zip(means, halves, strict=True)] for sign in (-1, 1))
                axes.fill_between(epochs, low, high, color=colour, alpha=0.12)
        axes.set(xlabel="epoch", title=title)
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
    panels[1].set_ylim(0, 1)
    out = io.BytesIO()
    figure.savefig(out, format="png", dpi=100, metadata={"Software": None})
    return out.getvalue()


def picture(text: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(text)))


def pets(rows: Sequence[Row]) -> bytes:
    """A line a test image: the image, its truth, and the mask that each row's network found."""
    rows = [row for row in rows if row["job"].seed == rows[0]["job"].seed]
    rows.sort(key=lambda row: (row["job"].optimizer, row["job"].framework))
    shown = rows[0]["pictures"]
    columns = [("image", shown["images"]), ("truth", shown["truth"])]
    columns += [
        (f"{NAMES[row['job'].framework]}, {row['job'].optimizer} IoU {list(row['scores'].values())[-1]['best'][0]:.3f}",
         row["pictures"]["found"]) for row in rows
    ]  # fmt: skip
    sheet = Image.new("RGB", (len(columns) * (SIDE + 6), len(shown["images"]) * (SIDE + 6) + 16), "white")
    draw = ImageDraw.Draw(sheet)
    for i, (title, files) in enumerate(columns):
        draw.text((i * (SIDE + 6) + 2, 2), title[: SIDE // 6], fill="black")
        for j, text in enumerate(files):
            image = picture(text)
            if image.mode == "L":  # a mask: 0, 1, 255
                image = image.point([0, 255] + [128] * 254)
            sheet.paste(image.resize((SIDE, SIDE)).convert("RGB"), (i * (SIDE + 6), 16 + j * (SIDE + 6)))
    out = io.BytesIO()
    sheet.save(out, "JPEG", quality=85)
    return out.getvalue()
