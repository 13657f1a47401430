"""Writing a file so that a crash, a kill or a full disk leaves the old file or the new one, never half of one."""

import os
from collections.abc import Callable
from pathlib import Path

__all__ = ["ModelFileError", "write_atomically"]


class ModelFileError(ValueError):
    """A file is no model file, is damaged, or cannot be written. One line that names the file."""


def write_atomically(path: str | os.PathLike[str], write: Callable[[Path], None]) -> None:
    """Let `write` make a temporary file beside `path`, bring it to the disk, and rename it to `path`.

    The temporary file is `.<name>.tmp`, one a target: what a killed process left is overwritten by the next save. One
    process at a time may write a given file. A `path` that is a symbolic link keeps being one.

    Args:
        path: the file to replace or make; its folder must exist.
        write: called with the temporary path; must create that file.

    Raises:
        OSError: the file cannot be written; the old one is untouched.
    """
    target = Path(os.path.realpath(path))
    temporary = target.with_name(f".{target.name}.tmp")
    try:
        write(temporary)
        _fsync(temporary)
        os.replace(temporary, target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    # the rename itself is lost with the power unless the folder is on the disk too
    _fsync(target.parent)


def _fsync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
