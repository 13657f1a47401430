"""Writing a file so that a crash, a kill or a full disk leaves the old file or the new one, never half of one."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

__all__ = ["FileError", "ModelFileError", "replacing"]


class FileError(ValueError):
    """A file cannot be read or written, is damaged, or is of a kind not read for safety. One line that names the file."""


class ModelFileError(FileError):
    """A file is no model file, is damaged, or cannot be written. One line that names the file."""


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A temporary file beside `path` to write to. Afterwards it is brought to the disk and renamed to `path`.

    The temporary file is `.<name>.tmp`, one a target: what a killed process left is overwritten by the next save. It is
    locked, so a second writer is refused. After an exception it is gone and the old file stays. A `path` that is a
    symbolic link keeps being one. The folder must exist.

    Raises:
        FileError: another process is writing it.
        OSError: the file cannot be written; the old one is untouched.
    """
    target = Path(os.path.realpath(path))
    temporary = target.with_name(f".{target.name}.tmp")
    lock = _locked(temporary)
    try:
        yield temporary
        _fsync(temporary)
        os.replace(temporary, target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    finally:
        # closing alone would leave the lock with a process that was forked meanwhile
        with suppress(OSError):
            fcntl.flock(lock, fcntl.LOCK_UN)
        os.close(lock)
    # the rename itself is lost with the power unless the folder is on the disk too
    _fsync(target.parent)


def _locked(temporary: Path) -> int:
    while True:
        handle = os.open(temporary, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(handle)
            raise FileError("another process is writing it") from None
        except OSError:  # a file system without locks
            return handle
        if temporary.exists() and temporary.samefile(f"/proc/self/fd/{handle}"):
            return handle
        os.close(handle)  # what was locked is no longer the temporary file: another writer has just renamed it


def _fsync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
