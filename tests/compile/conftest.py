"""The compile-only lane: no GPU, and a process in which the kernels were defined for the compiler."""

import pytest

from tritonnet.kernels import runtime


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the lane; skip it where the kernels were defined for the interpreter."""
    skip = pytest.mark.skip(reason="needs a process of its own: TRITON_INTERPRET=0 python -m pytest tests/compile")
    for item in items:
        if "tests/compile/" in item.nodeid:
            item.add_marker(pytest.mark.compile)
            if runtime.INTERPRET:
                item.add_marker(skip)


@pytest.fixture(autouse=True)
def poison() -> None:
    """Nothing runs here, so there is nothing to poison."""


@pytest.fixture(autouse=True)
def clean_state() -> None:
    """Nothing runs here, so no error flag exists."""
