"""Run the test lanes one after another, each in a process of its own, and end with one total in pytest's form.

1. main: every test but the compile-only ones, on the GPU or, without one, on Triton's interpreter.
2. compile: every kernel compiled for every architecture; needs no GPU, but a process that never chose the interpreter.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from xml.etree import ElementTree

ROOT = Path(__file__).resolve().parent.parent
LANES = {
    "main": (["tests", "--ignore=tests/compile"], {}),
    "compile": (["tests/compile"], {"TRITON_INTERPRET": "0"}),
}


def run(arguments: list[str], environment: dict[str, str], workers: int) -> tuple[Counter[str], float, int]:
    """Run pytest once; return the number of tests by outcome, the seconds, and the exit code."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        command = [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-n",
            str(workers),
            "--dist",
            "worksteal",
            f"--junit-xml={report}",
        ]
        command += ["-p", "no:benchmark"]  # it warns when tests run beside each other
        # one BLAS thread a worker: more of them than cores make each other wait
        threads = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
        code = subprocess.run(command + arguments, cwd=ROOT, env={**os.environ, **threads, **environment}).returncode
        if not report.exists():
            return Counter(error=1), 0.0, code or 1
        suite = ElementTree.parse(report).getroot().find("testsuite")
    assert suite is not None
    count = Counter({"failed": int(suite.attrib["failures"]), "error": int(suite.attrib["errors"])})
    count["skipped"] = int(suite.attrib["skipped"])
    count["passed"] = int(suite.attrib["tests"]) - count.total()
    return count, float(suite.attrib["time"]), code


def main() -> int:
    """Run every lane; return 0 if all passed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workers", type=int, default=2, help="test processes at a time")
    workers = parser.parse_args().workers
    total: Counter[str] = Counter()
    seconds, codes = 0.0, []
    for name, (arguments, environment) in LANES.items():
        print(f"--- {name} lane ---", flush=True)
        count, took, code = run(arguments, environment, workers)
        total += count
        seconds += took
        codes.append(code)
    parts = [f"{total[outcome]} {outcome}" for outcome in ("failed", "passed", "skipped", "error") if total[outcome]]
    print(f" {', '.join(parts) or 'no tests ran'} in {seconds:.2f}s ".center(80, "="))
    return int(any(codes))


if __name__ == "__main__":
    sys.exit(main())
