"""`python -m pytest bench`: every benchmark asserts its result, then times ours and theirs in one run with the one timer.

Rows go to bench/results/<date>-<gpu>.jsonl (or --rows PATH), each as soon as it is measured; a table is printed last. Without a
GPU the results are asserted at small sizes, and nothing is timed. Rows name the commit that git gives, or $COMMIT where files lie
without it. Compiling takes most of the time: with pytest-xdist `python -m pytest bench -n 12 --assert-only` does it beforehand,
in parallel.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from bench.cases import GPU, Case
from bench.rows import Rows, text_table


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--rows", type=Path, default=None, help="file for the results, a JSON object a line")
    parser.addoption("--assert-only", action="store_true", help="time nothing, also on a GPU")
    parser.addoption("--batch", type=int, default=16, help="images of the convolutions' cases")
    parser.addoption("--precision", default="bf16", choices=["bf16", "tf32"], help="of the convolutions' cases")
    parser.addoption("--peers", default="eager,graph", help="of the network benchmarks, see bench/bench_step.py")


def pytest_configure(config: pytest.Config) -> None:
    config.option.benchmark_quiet = True  # the table is ours
    config.option.benchmark_disable = not _times(config)


def _times(config: pytest.Config) -> bool:
    return GPU and not config.getoption("--assert-only")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:  # a remark of PyTorch's is no reason to lose a measurement
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.filterwarnings("default"))


@pytest.fixture(scope="session")
def rows(request: pytest.FixtureRequest) -> Rows | None:
    """Where results go; None where nothing is timed."""
    config: Any = request.config
    config.rows = Rows(config.getoption("--rows")) if _times(config) else None
    return config.rows


@pytest.fixture
def peers(request: pytest.FixtureRequest, rows: Rows | None) -> list[str]:
    """Which of PyTorch's ways to run networks are timed."""
    return request.config.getoption("--peers").split(",") if rows else ["eager"]


@pytest.fixture
def versus(benchmark: Any, rows: Rows | None) -> Callable[[str, str, Case], None]:
    """Assert a case's result, then time ours and theirs and write a row."""

    def run(bench: str, name: str, case: Case) -> None:
        case.check()
        if rows:
            benchmark.extra_info.update(rows.time(bench, name, case))
        wait = torch.cuda.synchronize if GPU else lambda: None
        benchmark.pedantic(lambda: (case.ours(), wait()), rounds=2, iterations=1)

    return run


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    done: Rows | None = getattr(config, "rows", None)
    if done and done.rows:
        terminalreporter.write_line(f"\n{text_table(done.rows)}\nrows: {done.path}")
    elif not _times(config):
        why = "--assert-only: results were asserted" if GPU else "no GPU: results were asserted at small sizes"
        terminalreporter.write_line(f"\n{why}, nothing was timed")
