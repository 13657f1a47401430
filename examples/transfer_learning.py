"""Fine-tune a network for another number of classes, and compare with training anew in as few epochs.

    python examples/transfer_learning.py OUT [--size 128] [--epochs 10] [--base-channels 16] ...

First cells, their rims and the background are told apart on many made pictures; then cells and background on few others.
`init` takes over all weights that fit; the last layer, for two classes instead of three, starts anew.
"""

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from tritonnet import train
from tritonnet.data import Cells


def write_rims(folder: Path, count: int, size: int, seed: int) -> Path:
    """Made cells as images/ and masks/: 0 background, 1 cell, 2 its rim, two pixels wide."""
    cells = Cells(count, size, seed)
    for part in ("images", "masks"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    for index, name in enumerate(cells.names):
        image, mask = cells.sample(index)
        inner = mask
        for _ in range(2):
            padded = np.pad(inner, 1, mode="edge")
            inner = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:] & inner
        Image.fromarray(image).save(folder / "images" / f"{name}.png")
        Image.fromarray(2 * mask - inner).save(folder / "masks" / f"{name}.png")
    return folder


parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("out", type=Path, help="new folder for the data and the three runs")
parser.add_argument("--size", type=int, default=128, help="pixels a side")
parser.add_argument("--base-channels", type=int, default=16)
parser.add_argument("--depth", type=int, default=4)
parser.add_argument("--many", type=int, default=500, help="pictures with three classes to learn from at first")
parser.add_argument("--few", type=int, default=20, help="pictures with two classes, every fifth for validation")
parser.add_argument("--first-epochs", type=int, default=10, help="with three classes")
parser.add_argument("--epochs", type=int, default=10, help="with two classes")
parser.add_argument("--lr", type=float, default=1e-3)
options = parser.parse_args()

base = train.Config.for_machine(
    model="unet", base_channels=options.base_channels, depth=options.depth, size=options.size, lr=options.lr
)
data = write_rims(options.out / "rims", options.many, options.size, seed=0)
first = train.train(
    replace(base, data=str(data), out=str(options.out / "first"), epochs=options.first_epochs, batch_size=16)
)
few = replace(base, cells=options.few, seed=1, epochs=options.epochs, batch_size=8)  # no data: made cells
anew = train.train(replace(few, out=str(options.out / "anew")))
tuned = train.train(replace(few, out=str(options.out / "tuned"), init=str(first.folder / "best.h5")))

print(f"IoU of the cells on {tuned.validated} validation images, in {base.precision}, on pictures that are made")
print("epoch    anew   tuned")
for one, other in zip(anew.history, tuned.history, strict=True):
    print(f"{one['epoch']:5.0f}  {one['iou']:6.3f}  {other['iou']:6.3f}")
