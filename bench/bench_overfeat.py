"""Overfeat [fast], 128 images of 231 x 231: forward, and forward with backward, beside PyTorch's and the figures of its day.

    python -m bench.bench_overfeat [--peers ...] [--rows FILE]

The figures are soumith/convnet-benchmarks' for the same network and batch, on the GPUs of 2015: a mark of how far things
have come, not a comparison. As there, no optimizer is timed; backward is the difference of the two.
"""

import pytest

from bench.bench_step import main, run
from bench.cases import GPU
from bench.networks import Net
from bench.rows import Rows

CASES = ["overfeat-128-231-bf16", "overfeat-128-231-tf32"]
# total, forward, backward in ms
HISTORIC = {
    "cuDNN R3 fp16": (313, 107, 206), "cuDNN R3 fp32": (326, 113, 213), "fbfft": (342, 114, 227),
    "Nervana fp16": (355, 112, 242), "Nervana fp32": (398, 124, 273), "cudaconvnet2": (723, 176, 547),
    "cuDNN R2": (810, 234, 576), "Caffe": (823, 355, 468), "Torch-7": (878, 379, 499), "CL-nn": (963, 388, 574),
    "GreenTea": (2857, 616, 2240),
}  # fmt: skip


@pytest.mark.parametrize("kind", ["forward", "gradients"])
@pytest.mark.parametrize("name", CASES if GPU else CASES[:1])
def test_overfeat(rows: Rows | None, peers: list[str], name: str, kind: str) -> None:
    net = Net.of(name) if GPU else Net("overfeat", 1, 71, "fp32")  # the least size that leaves a pixel
    run(net, kind, peers, rows)


if __name__ == "__main__":
    main(",".join(CASES), ("forward", "gradients"))
