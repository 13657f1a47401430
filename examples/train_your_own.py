"""Train on images of your own: `python examples/train_your_own.py DIR OUT`.

DIR has images/ and masks/ with the same file names; OUT is a new folder for the run.
"""

import sys

from tritonnet import train

if len(sys.argv) != 3:
    sys.exit("usage: python examples/train_your_own.py DIR OUT")
config = train.Config.for_machine(data=sys.argv[1], out=sys.argv[2])  # what suits this machine; give what you like
try:
    run = train.train(config)
except ValueError as error:  # what is wrong with the data or the configuration
    sys.exit(f"error: {error}")
print(f"best IoU {run.best['iou']:.3f}; look at {run.folder}/samples and {run.folder}/curves.png")
masks = train.predict(run.folder / "best.h5", f"{config.data}/images", run.folder / "predictions")
print(f"{len(masks)} masks, the first is {next(iter(masks))}")
