"""Whole networks beside PyTorch: training steps, inference, and how the cost grows with the batch and the image.

    python -m bench.bench_step [--cases train,recompute,inference,poster,scaling | unet-16-256-bf16,...]
                               [--kind step|gradients|forward]
                               [--peers eager,graph,compile,compile-graph,max-autotune,max-autotune-graph]
                               [--rows FILE] [--seconds 540]

A training step is: images to numbers, forward, cross-entropy, backward, Adam. Ours is timed as one CUDA graph, as the program
runs it, and started kernel by kernel; the best PyTorch is the fastest of its rows. Each measurement is a row, written at
once: ours and one peer, in turns, in one run. What is slow to set up (torch.compile) is measured once a day: a row of
the same day, GPU and versions is taken over instead, marked `reused`, beside eager PyTorch timed anew. The losses of the
first step, or the logits, are compared before anything is timed.
"""

import argparse
import dataclasses
import gc
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from bench.cases import GPU
from bench.networks import PEERS, Net, Peer, our_graph, our_step
from bench.rows import REPEATS, ROUNDS, Rows, read, text_table
from tritonnet.autograd import no_grad
from tritonnet.measure import compare, peak
from tritonnet.measure.machine import sm_clock
from tritonnet.measure.profile import kernel_times

GROUPS = {
    "train": ["unet-1-256-bf16", "unet-16-256-bf16", "unet-32-256-bf16", "unet-1-256-tf32", "unet-16-256-tf32"],
    "recompute": ["recompute-16-256-bf16"],
    "poster": ["poster-1-32-bf16", "poster-32-32-bf16", "poster-199-32-bf16"],
    "inference": ["unet-1-256-bf16", "unet-16-256-bf16"],
    "scaling": [f"unet-{n}-256-bf16" for n in (1, 2, 4, 8, 16, 32, 64)]
    + [f"unet-4-{s}-bf16" for s in (128, 512, 1024)],
}
SLOW = [name for name, (mode, _) in PEERS.items() if mode]  # peers worth taking over
# Two networks in bfloat16 differ by their roundings (2^-9 an operation, averaged over many pixels in a loss); tf32 rounds
# to 2^-11; logits are compared in norm.
TOLERANCE = {"bf16": (1e-2, 5e-2), "tf32": (2e-3, 1e-2), "fp32": (1e-4, 1e-4)}


def ours(net: Net, kind: str) -> tuple[Any, Any, torch.Tensor, float | None]:
    """(call as one CUDA graph or None, call kernel by kernel, first result, peak GiB of a call) of our network."""
    before = torch.cuda.memory_allocated() if GPU else 0
    step = our_step(net)
    images, labels = net.data()
    if kind == "forward":
        step.network.eval()

    def once() -> torch.Tensor:
        if kind == "forward":
            with no_grad():
                return step.forward(images).torch()
        if kind == "gradients":
            loss = step.gradients(images, labels)
            step.optimizer.zero_grad()
            return loss.data
        return step(images, labels).data

    first = once().clone()
    if not GPU:
        return once, once, first, None
    for _ in range(2):
        once()
    memory = peak_gib(once, before)
    return our_graph(step, images, labels) if kind == "step" else _graph(once), once, first, memory


def _graph(call: Any) -> Any:
    recorded = torch.cuda.CUDAGraph()
    torch.cuda.synchronize()
    with torch.cuda.graph(recorded):
        result = call()
    return lambda: (recorded.replay(), result)


def peak_gib(call: Any, before: int) -> float | None:
    """GiB allocated at most during a call, above the `before` bytes of what else is in memory; None without a GPU."""
    if not GPU:
        return None
    torch.cuda.reset_peak_memory_stats()
    call()
    torch.cuda.synchronize()
    return round((torch.cuda.max_memory_allocated() - before) / 2**30, 3)


def check(net: Net, kind: str, mine: torch.Tensor, theirs: torch.Tensor) -> None:
    """Compare the first results."""
    loss, logits = TOLERANCE[net.precision if GPU else "fp32"]
    allowed = logits if kind == "forward" else loss
    mine, theirs = mine.double().flatten(), theirs.double().flatten()
    error = float((mine - theirs).norm() / theirs.norm())
    assert error <= allowed, f"{net} {kind}: the first results differ by {error:.3g}, allowed {allowed:.3g}: not timed"


def measured_today(rows: Rows, kind: str, net: Net, peer: str) -> dict[str, Any] | None:
    """The last row of this case and peer in the file that was measured today, on this GPU, with these versions."""
    same = {key: rows.environment[key] for key in ("date", "gpu", "torch", "triton", "cudnn")}
    same |= {"bench": kind, "case": str(net), "peer": peer}
    known = read([rows.path]) if rows.path.exists() else []
    found = [r for r in known if not r.get("reused") and all(r.get(key) == value for key, value in same.items())]
    return found[-1] if found else None


def run(net: Net, kind: str, peers: list[str], rows: Rows | None, deadline: float = float("inf")) -> None:
    """Assert a case, then time ours beside each peer, eager PyTorch first; without `rows` assert alone."""
    graph, eager, first, memory = ours(net, kind)
    eager_ms, mine = None, None
    for name in ["eager", *(p for p in peers if p != "eager")]:
        if time.monotonic() > deadline:
            print(f"{net} {kind} {name}: no time is left", flush=True)
            continue
        old = measured_today(rows, kind, net, name) if rows and name in SLOW else None
        if old:
            mine, started = compare([graph, eager], rounds=ROUNDS, repeats=REPEATS, flush=False)
            values = {key: old[key] for key in ("theirs_ms", "theirs_spread", "theirs_gib", "setup_s")}
            values |= {"reused": True, "theirs_eager_ms": eager_ms}
        else:
            before = torch.cuda.memory_allocated() if GPU else 0
            try:
                peer = Peer(net, name, kind)
                check(net, kind, first, peer.first)
            except Exception as failure:  # PyTorch's compiler may fail; the other peers still count
                if name == "eager":
                    raise
                print(f"{net} {kind} {name}: {type(failure).__name__}: {str(failure)[:200]}", flush=True)
                continue
            if rows is None:
                continue
            mine, started, theirs = compare([graph, eager, peer.run], rounds=ROUNDS, repeats=REPEATS, flush=False)
            values = {
                "theirs_ms": round(theirs.median_ms, 5), "theirs_spread": round(theirs.spread, 3),
                "theirs_gib": None if peer.graph else peak_gib(peer.run, before), "setup_s": round(peer.setup_s, 1),
            }  # fmt: skip
            eager_ms = values["theirs_ms"] if name == "eager" else eager_ms
            del peer
        assert rows is not None
        rows.add(
            kind, str(net), peer=name, ours_ms=round(mine.median_ms, 5), ours_spread=round(mine.spread, 3),
            ours_eager_ms=round(started.median_ms, 5), ours_eager_spread=round(started.spread, 3), ours_gib=memory,
            ratio=round(values["theirs_ms"] / mine.median_ms, 3), repeats=mine.repeats, graph=True,
            sm_clock_mhz=sm_clock(graph), **values,
        )  # fmt: skip
        gc.collect()
    if rows is not None and mine is not None and GPU:
        dtype = torch.bfloat16 if net.precision == "bf16" else torch.float32
        kernels = [dataclasses.asdict(time) for time in kernel_times(eager, peak(), dtype)]
        rows.add("profile", f"{kind} {net}", kernels=kernels, step_ms=round(mine.median_ms, 5))
    del graph, eager
    gc.collect()
    if GPU:
        torch.cuda.empty_cache()


def main(default: str = "train,poster,inference", kinds: tuple[str, ...] = ("step",)) -> None:
    """Run from the command line; bench_mlp and bench_overfeat call it with their cases."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", default=default)
    parser.add_argument("--peers", default="eager,graph")
    parser.add_argument("--kind", choices=["step", "gradients", "forward"], help="other than the case's own")
    parser.add_argument("--rows", type=Path)
    parser.add_argument("--seconds", type=float, default=float("inf"), help="start no new measurement after so long")
    options = parser.parse_args()
    peers = options.peers.split(",")
    if unknown := [p for p in peers if p not in PEERS]:
        parser.error(f"--peers must be of {', '.join(PEERS)}, got {', '.join(unknown)}")
    if not GPU:
        parser.error("speed is measured on a GPU, and there is none; python -m pytest bench asserts the results")
    rows, deadline = Rows(options.rows), time.monotonic() + options.seconds
    for group in options.cases.split(","):
        for kind in [options.kind] if options.kind else ["forward"] if group == "inference" else kinds:
            for name in GROUPS.get(group, [group]):
                try:
                    run(Net.of(name), kind, peers, rows, deadline)
                except Exception as failure:  # one case must not cost the others
                    print(f"{name} {kind}: {type(failure).__name__}: {failure}", flush=True)
    print(f"{text_table(rows.rows)}\nrows: {rows.path}")


def cases_of(*groups: str) -> list[tuple[str, str]]:
    """(kind, name) of a group's cases."""
    return [("forward" if group == "inference" else "step", name) for group in groups for name in GROUPS[group]]


def tiny(name: str) -> Net:
    """The case on this device: on the interpreter two images of 16 pixels a side."""
    net = Net.of(name)
    return net if GPU else Net(net.model, 2, 16, "fp32")


CASES = (
    cases_of("train", "poster", "inference") if GPU else [("step", "unet-1-256-bf16"), ("forward", "poster-1-32-bf16")]
)


@pytest.mark.parametrize(("kind", "name"), CASES)
def test_step(rows: Rows | None, peers: list[str], kind: str, name: str) -> None:
    run(tiny(name), kind, peers, rows)


if __name__ == "__main__":
    main()
