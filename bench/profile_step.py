"""Where a training step's time goes: python -m bench.profile_step [unet-16-bf16] prints a line a kernel."""

import argparse
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from bench.test_step import Ours, Theirs
from tritonnet.measure.profile import kernel_times, table


def main() -> None:
    """Profile one eager step, ours or PyTorch's."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("case", nargs="?", default="unet-16-bf16")
    parser.add_argument("--theirs", action="store_true")
    options = parser.parse_args()
    model, batch, precision = options.case.split("-")
    side = 256 if model == "unet" else 32
    case = (model, int(batch), side, precision)
    theirs = Theirs(case)
    images = torch.randn(int(batch), 3, side, side, device="cuda").to(memory_format=torch.channels_last)
    masks = torch.randint(0, 2, (int(batch), side, side), device="cuda")
    if options.theirs:
        step = theirs.step
    else:
        step, images = Ours(case, theirs.network).step, images.permute(0, 2, 3, 1)
    for _ in range(3):
        step(images, masks)
    print(table(kernel_times(lambda: step(images, masks))))


if __name__ == "__main__":
    main()
