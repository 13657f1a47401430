"""The benchmarks' own assertions at small sizes, the rows they write, and what is read out of rows."""

import itertools
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from bench import bench_batch_norm, bench_conv2d, bench_loss, bench_optim, bench_pool, bench_step, report, results
from bench.cases import Case, fitted
from bench.networks import Net, Peer
from bench.rows import RESULTS, Rows, read, text_table


def layer(*case) -> Case:
    return bench_conv2d.Layer(case).versus()


OPERATIONS = [
    (bench_batch_norm.batch_norm_pool_backward, (16, 256, 64)), (layer, ("wgrad", 64, 128, 128, 16, "bf16")),
    (layer, ("up_fwd", 128, 64, 256, 16, "bf16")), (layer, ("first_fwd", 3, 64, 256, 16, "bf16")),
    (layer, ("first_wgrad", 3, 64, 256, 16, "bf16")), (bench_loss.cross_entropy, (16, 256, 2)),
    (bench_loss.confusion_matrix, (16, 256, 21)), (bench_optim.adam, (64, 4)),
    (bench_pool.max_pool2d_backward, (16, 256, 64, 3, 2, 1)),
]  # fmt: skip


@pytest.fixture(autouse=True)
def poison() -> None:
    """Unpoisoned buffers: the benchmarks time what users get."""


@pytest.fixture(autouse=True)
def settings() -> Iterator[None]:
    """PyTorch's settings as they were, for the tests that come after."""
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    before = cudnn.benchmark, cudnn.allow_tf32, matmul.allow_tf32
    yield
    cudnn.benchmark, cudnn.allow_tf32, matmul.allow_tf32 = before


@pytest.fixture
def rows(tmp_path: Path) -> Rows:
    return Rows(tmp_path / "rows.jsonl")


@pytest.mark.parametrize(("operation", "arguments"), OPERATIONS, ids=lambda value: getattr(value, "__name__", None))
def test_result_is_asserted(operation, arguments) -> None:
    case = operation(*(min(a, 8) if isinstance(a, int) else a for a in fitted(arguments)))
    case.check()
    assert case.bytes > 0


def test_a_wrong_result_is_not_timed() -> None:
    one = torch.ones(3)
    with pytest.raises(AssertionError, match=r"relative error 0\.5, allowed"):
        Case(lambda: one, lambda: 2 * one, 12).check()
    with pytest.raises(AssertionError, match="relative error nan"):
        Case(lambda: one * float("nan"), lambda: one, 12).check()
    with pytest.raises(AssertionError, match="shape"):
        Case(lambda: one, lambda: one[:2], 12).check()


def test_network(rows: Rows) -> None:
    bench_step.run(Net("mlp", 2, 4, "fp32"), "gradients", [], None)


def test_network_rows_and_what_is_taken_over(rows: Rows, monkeypatch: pytest.MonkeyPatch) -> None:
    """A row is written a peer; one of torch.compile's of the same day and versions stands in for another compilation."""
    net = Net("mlp", 2, 4, "fp32")
    loss = Peer(net, "eager", "step").first
    monkeypatch.setattr(
        bench_step, "ours", lambda *_: (loss.exp, loss.exp, loss, None)
    )  # the real one is in test_network
    monkeypatch.setattr(bench_step, "kernel_times", lambda *_: [])
    bench_step.run(net, "step", [], rows)
    first = read([rows.path])[0]
    assert (first["bench"], first["case"], first["peer"]) == ("step", "mlp-2-4-fp32", "eager")
    assert first["ratio"] == pytest.approx(first["theirs_ms"] / first["ours_ms"], rel=0.1)
    assert {"gpu", "torch", "triton", "cudnn", "date", "commit", "sm_clock_mhz"} <= first.keys()
    rows.add("step", str(net), peer="compile", theirs_ms=1.5, theirs_spread=0.0, theirs_gib=None, setup_s=20.0)
    bench_step.run(net, "step", ["compile"], rows)
    last = [row for row in read([rows.path]) if row.get("peer") == "compile"][-1]
    assert last["reused"]
    assert last["theirs_ms"] == 1.5
    assert last["theirs_eager_ms"] > 0
    assert "mlp-2-4-fp32 compile" in text_table(rows.rows)


def made_rows(rows: Rows) -> list[results.Row]:
    """A row of each kind, as a GPU would write them."""
    rows.environment |= {"gpu": "NVIDIA H200", "cudnn": 91900}
    rates = {"tflops": 1.0, "gbytes_per_s": 2, "of_peak": 0.5, "of_copy": None, "copy_ms": None, "sm_clock_mhz": 1980}
    common = {"ours_ms": 1.0, "theirs_ms": 1.25, "ratio": 1.25, **rates}
    rows.add("conv2d", "fwd 64-64@256 batch16 bf16", flops=1e9, bytes=1e6, dtype="bfloat16", **common)
    rows.add(
        "cat", "64@256 batch16", flops=0.0, bytes=1e6, dtype="bfloat16", **common | {"copy_ms": 0.9, "of_copy": 0.9}
    )
    for (kind, case), peer in itertools.product(
        [("step", "unet-4-256-bf16"), ("step", "unet-8-256-bf16"), ("forward", "overfeat-128-231-bf16"),
         ("gradients", "overfeat-128-231-bf16")], ["eager", "compile-graph"]
    ):  # fmt: skip
        faster = peer != "eager"
        rows.add(kind, case, peer=peer, ours_ms=2.0, ours_eager_ms=3.0, theirs_ms=3.0 if faster else 4.0, ratio=1.5,
                 ours_gib=1.0, theirs_gib=None if faster else 2.0, setup_s=1.0)  # fmt: skip
    kernel = {
        "name": "_fill_kernel",
        "launches": 1,
        "microseconds": 10.0,
        "flops": 0.0,
        "bytes": None,
        "floor_us": None,
    }
    rows.add("profile", "step unet-4-256-bf16", kernels=[kernel], step_ms=2.0)
    rows.add("startup", "first step, warm caches", seconds=9.0)
    return read([rows.path])


def test_report_holds_every_part(rows: Rows) -> None:
    page = report.page(made_rows(rows))
    assert page.count("<svg") == 3
    for text in ("GreenTea", "fill_kernel", "cat", "first step, warm caches", "compile-graph", "1980", "NVIDIA H200"):
        assert text in page
    assert "src=" not in page


def test_best_peer_is_the_fastest(rows: Rows) -> None:
    (_, line, _) = results.network_table(made_rows(rows), "step")
    assert line[1:] == ["2", "3 (compile-graph)", "1.50", "one run", "1.00 / 2.00"]


def test_committed_rows_are_read() -> None:
    rows = read(sorted(RESULTS.glob("*.jsonl")))
    steps = {line[0]: line for line in results.network_table(rows, "step")}
    assert steps["U-Net of 31 M parameters, 256x256, batch 16, bf16"][2].endswith(")")
    assert {row["bench"] for row in rows} >= {"step", "conv2d"}
    assert "<svg" in report.page(rows)
    assert report.readme_block(rows) in (report.ROOT / "README.md").read_text(), (
        "python -m bench.report --readme writes it"
    )


def test_readme_block_is_rewritten(tmp_path: Path, rows: Rows) -> None:
    readme = tmp_path / "README.md"
    readme.write_text(f"before\n{report.BEGIN}\nold\n{report.END}\nafter\n")
    made = made_rows(rows)
    report.rewrite(readme, made)
    report.rewrite(readme, made)
    text = readme.read_text()
    assert text.startswith("before\n<!--")
    assert text.endswith("-->\nafter\n")
    assert "| U-Net of 31 M parameters, 256x256, batch 4, bf16 | 2 | 3 (compile-graph) | 1.50 |" in text
    assert "old" not in text
    readme.write_text("no marks")
    with pytest.raises(SystemExit, match="must hold the marks"):
        report.rewrite(readme, made)


def test_a_line_that_stands_twice_counts_once(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text(json.dumps({"bench": "x", "case": "y"}) + "\n\n")
    assert len(read([file, file])) == 1
