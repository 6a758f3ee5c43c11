"""Files that are replaced in one move: written beside it, on the disk, then renamed; never half-written."""

import os
import re
import secrets
import stat
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from s4s_nb.errors import InputError

try:
    import fcntl
except ImportError:  # on Windows
    fcntl = None

AnyPath = str | bytes | os.PathLike
LIFE_WITHOUT_LOCKS = 3600.0
"""Seconds for which a temporary file is taken to have a living writer, where no lock says so."""


def replace_file(path: AnyPath, write: Callable[[Path], object]) -> None:
    """Call ``write(temporary_path)``, then rename what it wrote to ``path`` in one move.

    Whoever reads ``path`` sees the old file or the new one, also after a loss of power. A link stays one:
    the file that it leads to is replaced. Folders are made. Temporary files of writers of ``path`` that
    were killed are removed; those of living ones, on whatever machine of one file system, are not.

    Raises:
        InputError: ``path`` is a folder or a device, or cannot be written; what was there stays as it was.
    """
    path = followed(path)
    try:
        check_ordinary(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        remove_leftovers(path)
        with temporary_beside(path) as temporary:
            write(temporary)
            with open(temporary, "r+b") as file:
                os.fsync(file.fileno())
            os.replace(temporary, path)
        sync_folder(path.parent)
    except OSError as error:
        raise InputError(f"{path} cannot be written ({reason(error)}).") from error


def followed(path: AnyPath) -> Path:
    """The path that links lead to, whole."""
    return Path(os.path.realpath(os.fsdecode(path)))


def reason(error: OSError) -> str:
    """Why, without number and path."""
    return error.strerror or str(error)


# ---------------------------------------------------------------- what can be read and written


def check_ordinary(path: Path) -> None:
    """:class:`InputError` for what is there and is no ordinary file: a folder, a device, a FIFO."""
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        return
    if stat.S_ISDIR(mode):
        raise InputError(f"{path} is a folder; name a file.")
    if not stat.S_ISREG(mode):
        raise InputError(f"{path} is a device or a pipe; name an ordinary file.")


def check_writable(*paths: AnyPath | None) -> None:
    """Check that files can be written, before the work whose results they shall hold; those that are named.

    It leaves nothing behind. Folders that are not there yet will be made.

    Raises:
        InputError: what is there is no ordinary file or is read-only, nothing can be made in its folder, or
            two of the paths are one file.
    """
    files = [followed(path) for path in paths if path is not None]
    for path in files:
        try:
            check_ordinary(path)
            if path.exists() and not os.access(path, os.W_OK):
                raise InputError(f"{path} is read-only; choose another file.")
            with tempfile.TemporaryFile(dir=next(parent for parent in path.parents if parent.exists())):
                pass
        except OSError as error:
            raise InputError(f"{path} cannot be written ({reason(error)}).") from None
    for path in files:
        if files.count(path) > 1:
            raise InputError(f"{path} would be written twice; give every result a file of its own.")


# ---------------------------------------------------------------- temporary files


def prefix(path: Path) -> str:
    """How the names of temporary files of ``path`` begin; short, since the longest names have 255 bytes."""
    return f".{path.name[:40]}."


@contextmanager
def temporary_beside(path: Path) -> Iterator[Path]:
    """A new file beside ``path``, with the permissions of any new file, locked while its writer lives."""
    temporary, file = new_temporary(path)
    try:
        yield temporary
    finally:
        temporary.unlink(missing_ok=True)
        file.close()


def new_temporary(path: Path) -> tuple[Path, IO[bytes]]:
    """A new file beside ``path``, and what holds its lock."""
    while True:
        temporary = path.with_name(f"{prefix(path)}{secrets.token_hex(8)}.tmp")
        file = open(temporary, "xb")  # noqa: SIM115
        if fcntl is None:
            file.close()  # Windows renames no open file
            return temporary, file
        with suppress(OSError):  # a file system without locks
            fcntl.flock(file, fcntl.LOCK_EX)
        if temporary.exists():
            return temporary, file
        file.close()  # another writer took it for a leftover, before it was locked


def remove_leftovers(path: Path) -> None:
    """Remove the temporary files of writers of ``path`` that were killed."""
    name = re.compile(re.escape(prefix(path)) + r"[0-9a-f]{16}\.tmp")
    for found in [entry for entry in path.parent.iterdir() if name.fullmatch(entry.name)]:
        with suppress(OSError):  # its writer lives, or another one removed it
            if fcntl is None:
                if time.time() - found.stat().st_mtime > LIFE_WITHOUT_LOCKS:
                    found.unlink()
                continue
            with open(found, "r+b") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                found.unlink()


def sync_folder(folder: Path) -> None:
    """Have the names in a folder on the disk, where the system can tell."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
