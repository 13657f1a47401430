"""`python -m pytest bench`: every benchmark asserts its result, then times ours and theirs in one run with the one timer.

Rows go to bench/results/<date>-<gpu>.jsonl (or --rows PATH), one a case, with GPU and versions; a table is printed last.
"""

import datetime
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import triton

import tritonnet  # noqa: F401  first, so that kernels are defined for this device
from tritonnet.kernels import runtime
from tritonnet.measure.timer import measure

ROWS: list[dict[str, Any]] = []


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--rows", type=Path, default=None, help="file for the results, a JSON object a line")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if runtime.INTERPRET:
        for item in items:
            item.add_marker(pytest.mark.skip(reason="speed is measured on a GPU"))


@pytest.fixture
def versus(benchmark: Any, request: pytest.FixtureRequest) -> Callable[..., None]:
    """Compare `ours` with `theirs` (both return their result), time both, keep a row."""

    def run(
        ours: Callable[[], Any], theirs: Callable[[], Any], *, rtol: float | None, flops: float = 0, bytes: float = 0,
        graph: bool = True, flush: bool = True, repeats: int = 20, case: str = "",
    ) -> None:  # fmt: skip
        if rtol is not None:
            a, b = (r if isinstance(r, tuple | list) else (r,) for r in (ours(), theirs()))
            for mine, peer in zip(a, b, strict=True):
                error = float((mine.float() - peer.float()).norm() / peer.float().norm())
                assert error <= rtol, f"relative error {error:.3g}, allowed {rtol:.3g}: a wrong kernel is not timed"
        mine, peer = (measure(f, repeats=repeats, graph=graph, flush=flush) for f in (ours, theirs))
        row = {
            "bench": request.node.name.split("[")[0].removeprefix("test_"), "case": case or request.node.callspec.id,
            "ours_ms": round(mine.median_ms, 5), "theirs_ms": round(peer.median_ms, 5), "ours_spread": round(mine.spread, 3),
            "theirs_spread": round(peer.spread, 3), "ratio": round(peer.median_ms / mine.median_ms, 3), "repeats": repeats,
            "graph": graph, "tflops": round(flops / mine.median_ms / 1e9, 1) or None,
            "gbytes_per_s": round(bytes / mine.median_ms / 1e6) or None, "gpu": torch.cuda.get_device_name(),
            "torch": torch.__version__, "triton": triton.__version__, "cudnn": torch.backends.cudnn.version(),
            "date": datetime.date.today().isoformat(),
        }  # fmt: skip
        ROWS.append(row)
        benchmark.extra_info.update(row)
        benchmark.pedantic(ours, rounds=2, iterations=1)

    return run


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    if not ROWS:
        return
    gpu = torch.cuda.get_device_name().lower().replace(" ", "-")
    path = config.getoption("--rows") or Path(__file__).parent / "results" / f"{ROWS[0]['date']}-{gpu}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        file.writelines(json.dumps(row) + "\n" for row in ROWS)
    terminalreporter.write_line(
        f"\n{'':34}{'case':34}{'ours ms':>10}{'theirs ms':>11}{'ratio':>7}{'TFLOP/s':>9}{'GB/s':>7}"
    )
    for row in ROWS:
        terminalreporter.write_line(
            f"{row['bench']:34}{row['case']:34}{row['ours_ms']:10.4f}{row['theirs_ms']:11.4f}{row['ratio']:7.2f}"
            f"{row['tflops'] or 0:9.0f}{row['gbytes_per_s'] or 0:7.0f}"
        )
    terminalreporter.write_line(f"ratio: theirs / ours, above 1 ours is faster. Rows: {path}")
