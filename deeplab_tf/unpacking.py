"""Unpacks archives of strangers: inside one folder, and no more than they can sensibly hold."""

import bz2
import gzip
import lzma
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

from deeplab_tf import files
from deeplab_tf.messages import UserError

_BLOCK = 1 << 20
_DAMAGED_ARCHIVE = (
    tarfile.TarError,
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    EOFError,
    ValueError,
    gzip.BadGzipFile,
    RuntimeError,  # a password is needed
    NotImplementedError,  # an unknown method
)
# Photographs do not shrink, masks shrink to a tenth. A published archive may unpack to this many
# times its own size, and a small one to this many bytes.
_MOST_GROWTH, _MOST_OF_SMALL = 100, 1 << 30
_OF_A_MEMBER = 4096  # bytes that a file or folder takes on a disk, on top of its content
_MOST_HEADERS = 16 << 20  # bytes of a tar between the contents of two members
_OPENERS: dict[bytes, Callable[..., Any]] = {
    b"\x1f\x8b": gzip.open,
    b"BZh": bz2.open,
    b"\xfd7zXZ\0": lzma.open,
}


def unpack(path: Path, folder: Path) -> None:
    """Unpacks a tar (plain, gz, bz2, xz) or zip file into a new folder, whole or not at all.

    Raises:
      UserError: if the archive is damaged, if a member would land outside the folder or is neither
        a file nor a folder (a data set needs no links or devices), or if it unpacks to more than
        the disk has room for, or to far more than its own size.
    """
    folder.mkdir(parents=True)
    room = _Room(path, folder)
    try:
        if zipfile.is_zipfile(path):
            _unpack_zip(path, folder, room)
        else:
            _unpack_tar(path, folder, room)
    except BaseException as error:
        shutil.rmtree(folder, ignore_errors=True)
        # bz2 raises an OSError without a number if its data are damaged.
        is_disk = isinstance(error, OSError) and error.errno
        if is_disk or not isinstance(error, (*_DAMAGED_ARCHIVE, OSError)):
            raise
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(
            f"{path} cannot be unpacked ({files.shown(reason, most=200)}); fetch it again."
        ) from None


def _unpack_zip(path: Path, folder: Path, room: "_Room") -> None:
    with zipfile.ZipFile(path) as archive:
        for info in archive.infolist():
            kind = stat.S_IFMT(info.external_attr >> 16)
            _require_inside(path, info.filename, kind in (0, stat.S_IFREG, stat.S_IFDIR))
            room.take(info.file_size)  # zipfile reads no more, whatever the content is
            archive.extract(info, folder)


def _unpack_tar(path: Path, folder: Path, room: "_Room") -> None:
    with path.open("rb") as file:
        start = file.read(6)
    opener = next((o for mark, o in _OPENERS.items() if start.startswith(mark)), open)

    with opener(path, "rb") as file:
        stream = _Stream(file)
        with tarfile.open(fileobj=stream, mode="r:") as tar:  # type: ignore[call-overload]
            for member in tar:
                _require_inside(path, member.name, member.isfile() or member.isdir())
                room.take(member.size)
                stream.allow(member.size)
                tar.extract(member, folder, set_attrs=False)
            end = tar.offset

        # tarfile takes a damaged header for the end; and checksums come after the last byte.
        file.seek(end)
        if file.read(tarfile.BLOCKSIZE).strip(b"\0"):
            raise tarfile.ReadError("a header is damaged")
        while block := file.read(_BLOCK):
            room.take(len(block))


class _Stream:
    """The unpacked bytes of a tar; its headers may take only a limited number of them.

    tarfile reads a header's names and tables into memory, however long the header says they are.
    """

    def __init__(self, file: BinaryIO):
        self._file = file
        self.seek, self.tell = file.seek, file.tell
        self.allow(0)

    def allow(self, size: int) -> None:
        """Allows reading this many bytes of content, and headers after it."""
        self._left = size + _MOST_HEADERS

    def read(self, size: int) -> bytes:
        """Returns the next bytes."""
        self._left -= size
        if self._left < 0:
            raise tarfile.ReadError(f"headers of more than {_MOST_HEADERS} bytes")
        return self._file.read(size)


class _Room:
    """Counts what an archive unpacks to, and refuses what no data set or checkpoint needs."""

    def __init__(self, archive: Path, folder: Path):
        self._archive, self._folder = archive, folder
        self._most = max(_MOST_GROWTH * archive.stat().st_size, _MOST_OF_SMALL)
        self._free = shutil.disk_usage(folder).free
        self._taken = 0

    def take(self, size: int) -> None:
        """Counts a member of this many bytes, before it is unpacked."""
        self._taken += size + _OF_A_MEMBER
        if self._taken > self._most:
            raise UserError(
                f"{self._archive} unpacks to more than {self._most} bytes, far more than its own "
                "size, so it was not unpacked; take another file, or unpack it by hand."
            )
        if self._taken > self._free:
            raise UserError(
                f"{self._archive} unpacks to more bytes than there is room for in "
                f"{self._folder.parent} ({self._free}), so it was not unpacked; make room."
            )


def _require_inside(archive: Path, name: str, is_plain: bool) -> None:
    path = PurePosixPath(name.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts or not is_plain:
        raise UserError(
            f"{archive} holds {files.shown(name, most=100)!r}, which is not a plain file inside "
            "its folder; it was not unpacked."
        )
