"""From the start of the process to the first trained step of `tritonnet train`, with empty and with warm caches of Triton's.

    python -m bench.bench_startup [--rows FILE]

The network, batch and size are the program's own for this machine (on a GPU: U-Net, 16 images, 256x256, bf16), the images made.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from bench.cases import GPU
from bench.rows import Rows

PROGRAM = """
import os, sys, time
from tritonnet.train import Config, train
from tritonnet.train.report import Listener

class First(Listener):
    def step(self, done, images_per_second):
        print("first step", time.time(), flush=True)
        os._exit(0)

small = {"model": "unet", "base_channels": 4, "depth": 1, "size": 16, "batch_size": 4, "cells": 5}
train(Config.for_machine(out=sys.argv[1], epochs=1, **(small if sys.argv[2] == "small" else {"cells": 40})), First())
"""


def first_step(caches: Path, size: str = "small") -> float:
    """Seconds from the start of a process to its first trained step, Triton's caches being in that folder."""
    with tempfile.TemporaryDirectory() as out:
        start = time.time()
        command = [sys.executable, "-c", PROGRAM, f"{out}/run", size]
        environment = {**os.environ, "TRITON_CACHE_DIR": str(caches)}
        root = Path(__file__).resolve().parent.parent
        done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True)
    marks = [line.split()[-1] for line in done.stdout.splitlines() if line.startswith("first step")]
    assert marks, f"the program ended without a step:\n{done.stdout}{done.stderr}"
    return float(marks[0]) - start


def measure(rows: Rows) -> None:
    """Both, a row each."""
    with tempfile.TemporaryDirectory() as caches:
        for state in ("empty", "warm"):
            seconds = round(first_step(Path(caches), "whole"), 2)
            rows.add("startup", f"first step, {state} caches", seconds=seconds)
            print(f"first step, {state} caches: {seconds} s", flush=True)


def test_startup(rows: Rows | None) -> None:
    if rows is None:
        pytest.skip("a start has a time, and no other result")
    measure(rows)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=Path)
    if not GPU:
        parser.error("compiling is measured on a GPU, and there is none")
    measure(Rows(parser.parse_args().rows))
