"""Writes files and folders as a whole or not at all, and keeps other writers out."""

import contextlib
import errno
import fcntl
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from deeplab_tf.files.names import shown
from deeplab_tf.messages import UserError, warn

_TEMPORARY_ENDING = "-writing"
_cleared: set[Path] = set()  # folders in which this process has looked for leftovers


def write(path: Path, content: bytes | str, *, is_lasting: bool = True) -> None:
    """Writes a file, completely or not at all, and creates its folders; text becomes UTF-8.

    Args:
      is_lasting: whether to wait until the disk holds it, so that it survives a power failure too;
        that takes milliseconds.
    Raises:
      OSError: if it cannot be written; an existing file then stays as it was.
    """
    data = content.encode() if isinstance(content, str) else content
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_leftovers(path.parent)

        temporary, file = _new_temporary(path.parent)
        with file:
            file.write(data)
            file.flush()
            if is_lasting:
                # Some disks say only now that they are full, and after a power failure the new name
                # would else stand for an empty file.
                os.fsync(file.fileno())
            os.replace(temporary, path)
    except OSError as error:  # of a full disk it would name no file, else the temporary one
        raise OSError(error.errno, error.strerror, str(path)) from None
    finally:
        if temporary:
            temporary.unlink(missing_ok=True)


def _new_temporary(folder: Path) -> tuple[Path, BinaryIO]:
    """Creates a hidden file, which is locked as long as it is open."""
    while True:
        # Random, since other hosts may write there too, with the same process numbers.
        path = folder / f".{secrets.token_hex(8)}{_TEMPORARY_ENDING}"
        file = path.open("xb")
        with contextlib.suppress(OSError):  # without locks, leftovers stay
            fcntl.flock(file, fcntl.LOCK_EX)
        if path.exists():
            return path, file
        file.close()  # another process took it for a leftover before it was locked


def _remove_leftovers(folder: Path) -> None:
    """Removes what killed processes were writing in a folder; looks once in each folder."""
    if folder in _cleared:
        return
    _cleared.add(folder)

    for entry in os.scandir(folder):
        if not entry.name.startswith(".") or not entry.name.endswith(_TEMPORARY_ENDING):
            continue
        # What a living process writes is locked.
        with contextlib.suppress(OSError), open(entry.path, "rb+") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.unlink(entry.path)


def require_writable(folder: Path, *, flag: str) -> None:
    """Tries whether files can be written to a folder, which need not exist; leaves nothing behind.

    Args:
      flag: the flag that gives the folder, for the error.
    Raises:
      UserError: if it is a file, or the disk is full or cannot be written.
    """
    existing = next(
        place for place in (folder, *folder.absolute().parents) if os.path.lexists(place)
    )
    try:
        with tempfile.TemporaryFile(dir=existing) as trial:
            trial.write(bytes(4096))
    except OSError as error:
        raise UserError(
            f"--{flag}={shown(folder)} cannot be written ({error.strerror}: {shown(existing)}); "
            "give another folder, or make room and allow writing there."
        ) from None


@contextlib.contextmanager
def building_folder(parent: Path, prefix: str) -> Iterator[Path]:
    """Makes a new folder to build something in, on the same disk as `parent`.

    Removes it in the end, and at the start those that killed processes left there. A living process
    holds a lock on its folder.

    Args:
      prefix: of the folder's name; no other program may use it.
    """
    parent.mkdir(parents=True, exist_ok=True)
    for leftover in parent.glob(f"{prefix}*"):
        with _locked_folder(leftover) as is_locked:
            if is_locked:
                shutil.rmtree(leftover, ignore_errors=True)

    with tempfile.TemporaryDirectory(dir=parent, prefix=prefix) as name, _locked_folder(Path(name)):
        yield Path(name)


@contextlib.contextmanager
def _locked_folder(folder: Path) -> Iterator[bool]:
    """Locks a folder inside the context; yields whether no other process had locked it."""
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except OSError:
        yield False
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        is_locked = True
    except OSError:  # locked, or on a file system without locks
        is_locked = False
    try:
        yield is_locked
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def sole_writer(folder: Path, *, busy: str) -> Iterator[None]:
    """Creates a folder and keeps other programs that use this function out of it.

    Removes the folder, and those above it that it created, if they stay empty. The lock ends with
    the process, even if that is killed, and holds for all hosts that share the folder. If the file
    system has no locks, warns of it.

    Args:
      busy: the sentence for the user if another program is in the folder.
    Raises:
      UserError: if another program is in the folder.
    """
    created = [place for place in (folder, *folder.parents) if not place.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with _locked(folder / ".lock", busy):
            yield
    finally:
        for place in created:
            with contextlib.suppress(OSError):  # raised if it holds something
                place.rmdir()


@contextlib.contextmanager
def _locked(path: Path, busy: str) -> Iterator[None]:
    """Holds the lock on a file, which is removed again."""
    while True:
        try:
            # A file, not the folder: NFS locks only what is open for writing.
            file = path.open("ab")
        except OSError as error:
            if error.errno not in (errno.EROFS, errno.EACCES, errno.EPERM):
                raise
            yield  # nobody can write there, and what needs to will say so
            return

        with file:
            has_locks = _lock(file, busy)
            if has_locks and not _is_at(path, file):
                continue  # the holder before has ended meanwhile, and removed it
            try:
                yield
            finally:
                path.unlink(missing_ok=True)
            return


def _lock(file: BinaryIO, busy: str) -> bool:
    """Locks an open file; returns False, with a warning, if the file system has no locks."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    except BlockingIOError:
        raise UserError(busy) from None
    except OSError as error:
        warn(
            f"{shown(file.name)} is on a file system without locks ({error.strerror}); make sure "
            "that no other program writes to its folder."
        )
        return False


def _is_at(path: Path, file: BinaryIO) -> bool:
    with contextlib.suppress(FileNotFoundError):
        return os.path.samestat(path.stat(), os.fstat(file.fileno()))
    return False
