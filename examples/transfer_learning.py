"""Fine-tune a network for another number of classes, and compare with training anew in as few epochs.

    python examples/transfer_learning.py OUT [--size 128] [--epochs 5] [--base-channels 16] ...

First cells are told from the background on many made pictures; then, on few others, cells, their rims and the background.
`init` takes over all weights that fit; the last layer, for three classes instead of two, starts anew.
"""

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from tritonnet import train
from tritonnet.data import Cells


def write_rims(folder: Path, count: int, size: int, seed: int) -> Path:
    """Made cells as images/ and masks/: 0 background, 1 cell, 2 its rim (a pixel with background beside it)."""
    cells = Cells(count, size, seed)
    for part in ("images", "masks"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    for index, name in enumerate(cells.names):
        image, mask = cells.sample(index)
        padded = np.pad(mask, 1, mode="edge")
        inner = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
        Image.fromarray(image).save(folder / "images" / f"{name}.png")
        Image.fromarray((2 * mask - (mask & inner)).astype(np.uint8)).save(folder / "masks" / f"{name}.png")
    return folder


parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("out", type=Path, help="new folder for the data and the three runs")
parser.add_argument("--size", type=int, default=128, help="pixels a side")
parser.add_argument("--base-channels", type=int, default=16)
parser.add_argument("--depth", type=int, default=4)
parser.add_argument("--cells", type=int, default=500, help="pictures to learn from at first")
parser.add_argument("--few", type=int, default=20, help="pictures with three classes, every fifth for validation")
parser.add_argument("--epochs", type=int, default=5, help="with three classes")
parser.add_argument("--first-epochs", type=int, default=10, help="with two classes")
parser.add_argument("--lr", type=float, default=1e-3)
options = parser.parse_args()

base = train.Config.for_machine(
    model="unet",
    base_channels=options.base_channels,
    depth=options.depth,
    size=options.size,
    lr=options.lr,
    batch_size=4,
)
first = train.train(
    replace(base, out=str(options.out / "first"), cells=options.cells, epochs=options.first_epochs, batch_size=16)
)
data = write_rims(options.out / "rims", options.few, options.size, seed=1)
few = replace(base, data=str(data), epochs=options.epochs)
anew = train.train(replace(few, out=str(options.out / "anew")))
tuned = train.train(replace(few, out=str(options.out / "tuned"), init=str(first.folder / "best.h5")))

print(
    f"mean IoU of three classes on {tuned.validated} validation images, by {base.precision} on pictures that are made"
)
print("epoch    anew   tuned")
for one, other in zip(anew.history, tuned.history, strict=True):
    print(f"{one['epoch']:5.0f}  {one['iou']:6.3f}  {other['iou']:6.3f}")
