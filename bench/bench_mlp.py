"""MNIST's multilayer perceptron (784-512-512-10, ReLU, Adam): a training step beside PyTorch's.

    python -m bench.bench_mlp [--peers ...] [--rows FILE]

The widths are ours: no published figure is compared.
"""

import pytest

from bench.bench_step import main, run
from bench.cases import GPU
from bench.networks import Net
from bench.rows import Rows

CASES = ["mlp-128-28-bf16", "mlp-4096-28-bf16"]


@pytest.mark.parametrize("name", CASES)
def test_mlp(rows: Rows | None, peers: list[str], name: str) -> None:
    run(Net.of(name) if GPU else Net("mlp", 4, 8, "fp32"), "step", peers, rows)


if __name__ == "__main__":
    main(",".join(CASES))
