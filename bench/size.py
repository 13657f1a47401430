"""Code lines by layer: without blank lines, comments and docstrings. `make size` prints the table."""

import ast
import io
import sys
import tokenize
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LAYERS = ("kernels", "autograd", "ops", "nn", "models", "optim", "data", "io", "train", "measure", "cli")
GROUPS = {  # what the layers together should stay below, so that the whole can be read
    "kernels": (("kernels",), 3500),
    "autograd to optim": (("autograd", "ops", "nn", "models", "optim"), 2500),
    "the rest": (("data", "io", "train", "measure", "cli", "package"), 3000),
}
NO_CODE = {
    tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER, tokenize.ENCODING,
}  # fmt: skip


def code_lines(source: str) -> int:
    """Number of lines of `source` that hold code."""
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    docstrings: set[int] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, documented) and ast.get_docstring(node, clean=False) is not None:
            text = node.body[0]
            docstrings.update(range(text.lineno, (text.end_lineno or text.lineno) + 1))
    lines: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in NO_CODE:
            lines.update(range(token.start[0], token.end[0] + 1))
    return len(lines - docstrings)


def count() -> dict[str, tuple[int, int]]:
    """(files, code lines) of each layer, and of what stands beside them."""
    folders = {"kernels": ROOT / "kernels", **{name: ROOT / "tritonnet" / name for name in LAYERS[1:]}}
    files = {name: sorted(folder.rglob("*.py")) for name, folder in folders.items()}
    files["package"] = sorted((ROOT / "tritonnet").glob("*.py"))
    files |= {name: sorted((ROOT / name).rglob("*.py")) for name in ("tests", "bench", "examples")}
    return {name: (len(paths), sum(code_lines(path.read_text()) for path in paths)) for name, paths in files.items()}


def main() -> int:
    """Print the table."""
    table = count()
    print(f"{'layer':20}{'files':>7}{'code lines':>12}")
    for name, (files, lines) in table.items():
        print(f"{name:20}{files:7d}{lines:12d}")
    print()
    for group, (names, limit) in GROUPS.items():
        print(f"{group:20}{'':7}{sum(table[name][1] for name in names):12d}   (aim: {limit})")
    return 0


if __name__ == "__main__":
    sys.exit(main())
