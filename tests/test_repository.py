"""What the repository promises about itself: imports point one way, torch and numpy stay where they belong, a wheel is whole."""

import ast
import os
import shutil
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

# What each layer may import beside itself and what those may import; nothing imports cli.
BELOW = {
    "kernels": (),
    "autograd": ("kernels",),
    "ops": ("autograd",),
    "nn": ("ops",),
    "optim": ("nn",),
    "models": ("nn", "optim"),
    "io": ("autograd",),
    "data": ("io",),
    "train": ("models", "data"),
    "measure": ("models", "data"),
    "cli": ("train", "measure"),
}
WITHOUT_NUMPY = ("kernels", "autograd", "ops", "nn", "models", "optim")
CORE = {"torch", "triton", "numpy", "h5py", "pillow"}


def python_files(*folders: str) -> list[Path]:
    """The Python files below these folders of the repository, the link tritonnet/kernels left out."""
    files = (path for folder in folders for path in sorted((ROOT / folder).rglob("*.py")))
    return [path for path in files if not path.is_relative_to(ROOT / "tritonnet" / "kernels")]


def layer_files() -> Iterator[tuple[str, Path]]:
    """(layer, file) for every file of every layer."""
    for layer in BELOW:
        for path in python_files("kernels" if layer == "kernels" else f"tritonnet/{layer}"):
            yield layer, path


def imports(path: Path) -> Iterator[tuple[str, int]]:
    """(dotted name, line) of everything a file imports, at its top or inside a function."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            yield node.module, node.lineno
            yield from ((f"{node.module}.{alias.name}", node.lineno) for alias in node.names)


def allowed(layer: str) -> set[str]:
    """The layers that `layer` may import."""
    return {layer}.union(*(allowed(below) for below in BELOW[layer]))


def where(path: Path, line: int) -> str:
    return f"{path.relative_to(ROOT)}:{line}"


def run_python(program: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a program in a fresh process that has chosen neither interpreter nor compiler yet."""
    inherited = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    inherited["PYTHONPATH"] = str(ROOT)
    return subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT / "docs", env=inherited | environment, capture_output=True, text=True
    )


# --- the source -----------------------------------------------------------------------------------------------------


def test_imports_point_one_way() -> None:
    wrong = []
    for layer, path in layer_files():
        for name, line in imports(path):
            parts = name.split(".")
            target = parts[1] if parts[0] == "tritonnet" and len(parts) > 1 else None
            if target in BELOW and target not in allowed(layer):
                wrong.append(f"{where(path, line)} {layer} imports {target}")
    assert not wrong, "\n".join(wrong)


def test_no_numpy_below_data() -> None:
    wrong = [
        where(path, line)
        for layer, path in layer_files()
        for name, line in imports(path)
        if layer in WITHOUT_NUMPY and name.split(".")[0] == "numpy"
    ]
    assert not wrong, wrong


def test_nobody_imports_kernels_by_its_bare_name() -> None:
    files = python_files("kernels", "tritonnet", "tests", "bench", "examples")
    wrong = [where(path, line) for path in files for name, line in imports(path) if name.split(".")[0] == "kernels"]
    assert not wrong, wrong
    refused = run_python("import sys; sys.path.insert(0, '..'); import kernels")
    assert refused.returncode != 0
    assert "tritonnet.kernels" in refused.stderr


def test_no_file_is_over_400_lines() -> None:
    files = python_files("kernels", "tritonnet", "tests", "bench", "examples")
    long = {str(path.relative_to(ROOT)): n for path in files if (n := len(path.read_text().splitlines())) > 400}
    assert not long, long


def test_no_autotuning_at_run_time() -> None:
    wrong = [
        where(path, node.lineno)
        for path in python_files("kernels", "tritonnet")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute) and node.attr == "autotune"
    ]
    assert not wrong, wrong


def test_every_masked_load_names_other() -> None:
    wrong = []
    for path in python_files("kernels"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "tl.load":
                named = {keyword.arg for keyword in node.keywords}
                masked = "mask" in named or len(node.args) > 1
                if masked and "other" not in named and len(node.args) < 3:
                    wrong.append(where(path, node.lineno))
    assert not wrong, wrong


def test_every_kernel_begins() -> None:
    wrong = [
        f"{where(path, node.lineno)} {node.name}"
        for path in python_files("kernels")
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.FunctionDef) and node.name.endswith("_kernel") and node.decorator_list
        if not ast.unparse(node.body[0]).startswith("begin(")
    ]
    assert not wrong, wrong


def test_every_launcher_is_annotated() -> None:
    """The type checker cannot ask for it, since kernels themselves have no Python types."""
    wrong = []
    for path in python_files("kernels"):
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.FunctionDef) or any("jit" in ast.unparse(d) for d in node.decorator_list):
                continue
            arguments = node.args.posonlyargs + node.args.args + node.args.kwonlyargs
            missing = [a.arg for a in arguments if a.annotation is None and a.arg not in ("self", "cls")]
            if missing or node.returns is None:
                wrong.append(f"{where(path, node.lineno)} {node.name}")
    assert not wrong, wrong


def test_readme_lists_every_kernel_file() -> None:
    readme = (ROOT / "README.md").read_text()
    shared = {"__init__.py", "runtime.py"}
    missing = [p.name for p in python_files("kernels") if p.name not in shared and f"kernels/{p.name}" not in readme]
    assert not missing, missing


# --- the package ----------------------------------------------------------------------------------------------------


def test_kernels_is_a_link() -> None:
    link = ROOT / "tritonnet" / "kernels"
    assert link.is_symlink(), "tritonnet/kernels must be a symbolic link: without it a wheel has no kernels"
    assert os.readlink(link) == "../kernels"


def test_wheel_holds_every_kernel_file(tmp_path: Path) -> None:
    """Built from a copy: an old build/ folder would hide a lost link."""
    pytest.importorskip(
        "setuptools", minversion="77", reason="building a wheel without the network needs setuptools >= 77"
    )
    copy = tmp_path / "copy"
    copy.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    for name in ("kernels", "tritonnet"):
        shutil.copytree(ROOT / name, copy / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    source = {str(path.relative_to(copy)) for path in copy.rglob("*") if path.suffix in (".py", ".json", ".typed")}
    build = "import sys; from setuptools.build_meta import build_wheel; build_wheel(sys.argv[1])"
    done = subprocess.run([sys.executable, "-c", build, tmp_path], cwd=copy, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (wheel,) = tmp_path.glob("tritonnet-*.whl")
    held = set(zipfile.ZipFile(wheel).namelist())
    expected = {f"tritonnet/{name}" if name.startswith("kernels/") else name for name in source}
    assert expected - held == set()
    assert {name.split("/")[0] for name in held} == {"tritonnet", wheel.name.split("-py3")[0] + ".dist-info"}


def test_import_needs_the_five_core_packages_alone() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    groups = [project["dependencies"], *project["optional-dependencies"].values()]
    declared = {requirement.partition(">")[0].strip().replace("-", "_") for group in groups for requirement in group}
    assert declared >= CORE
    modules = [
        ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for path in python_files("tritonnet")
        if "cli" not in path.parts and not path.name.startswith("__")
    ]
    program = f"""
import importlib, sys
for name in {sorted(declared - CORE - {"setuptools"})}:
    sys.modules[name] = None  # importing it now fails
import tritonnet
for name in {modules}:
    importlib.import_module(name)
"""
    done = run_python(program)
    assert done.returncode == 0, done.stderr


# --- torch before tritonnet -----------------------------------------------------------------------------------------

COMPUTE = """
x = tn.tensor([[1.0, 2.0], [3.0, 4.0]], requires_grad=True)
y = tn.nn.functional.softmax(x * x, dim=1).sum()  # reductions: Triton's own library functions, in Triton itself
y.backward()
assert abs(float(y.item()) - 2.0) < 1e-6
tn.manual_seed(0)
assert abs(tn.randn(64).numpy().mean()) < 1  # and its random numbers
"""
ORDERS = {
    "tritonnet-first": "import tritonnet as tn; import torch",
    "torch-first": "import torch; import tritonnet as tn",
    "torch-optimizer-first": (
        "import torch; torch.optim.Adam([torch.nn.Parameter(torch.ones(2))]); import sys; import tritonnet as tn"
    ),
    "triton-first": "import triton, triton.language; import tritonnet as tn",
}


@pytest.mark.parametrize("order", ORDERS)
def test_import_order_does_not_matter(order: str) -> None:
    done = run_python(f"{ORDERS[order]}\n{COMPUTE}")
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("no GPU: running on Triton's interpreter") <= 1


OUTSIDE = """
import tritonnet as tn
print("imported", flush=True)
loss = tn.nn.CrossEntropyLoss()(tn.tensor([[1.0, 2.0]]), tn.tensor([7]))
try:
    loss.item()
except tn.Fault:
    print("fault")
"""


def test_stderr_has_one_line_at_most_and_none_from_the_import() -> None:
    """Without a GPU the first launch says so; numpy's remarks on what the interpreter computes are not shown."""
    assert run_python("import tritonnet").stderr == ""
    done = run_python(OUTSIDE)
    assert done.stdout.split() == ["imported", "fault"]
    assert done.stderr in ("", "no GPU: running on Triton's interpreter, correct but slow\n")
