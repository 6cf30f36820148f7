"""Fetches published archives: resumes downloads, checks sizes and hashes, unpacks safely."""

import errno
import hashlib
import http.client
import lzma
import os
import shutil
import socket
import ssl
import stat
import tarfile
import time
import urllib.error
import urllib.parse
import urllib.request
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from tqdm import tqdm

from deeplab_tf.messages import UserError

_BLOCK = 1 << 20
_ATTEMPTS = 5
_TIMEOUT_SECONDS = 30
_NETWORK_FAULTS = (  # not every OSError: trying again does not help against a full disk
    urllib.error.URLError,
    http.client.HTTPException,
    ConnectionError,
    TimeoutError,
    ssl.SSLError,
    EOFError,
)
_UNREACHABLE = (errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ENETDOWN, errno.ECONNREFUSED)
_TEMPORARY_ANSWERS = (408, 429, 500, 502, 503, 504)  # HTTP status codes
_DAMAGED_ARCHIVE = (
    tarfile.TarError,
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    EOFError,
    ValueError,
    RuntimeError,  # a password is needed
    NotImplementedError,  # an unknown method
)


@dataclass(frozen=True)
class Archive:
    """A published file.

    url: where it is.
    algorithm, digest: its published hash, such as ("md5", "6cd6..."); the digest may be only the
      beginning, and is empty if none is published.
    folder: the folder that it unpacks to, relative to where it is unpacked.
    size: in bytes; 0 if none is published. Then the server's size is trusted until the hash is
      checked.
    """

    url: str
    algorithm: str
    digest: str
    folder: str
    size: int = 0

    @property
    def file_name(self) -> str:
        return PurePosixPath(urllib.parse.urlsplit(self.url).path).name

    def help(self, flag: str) -> str:
        """Returns what the user can do if the folder given by a flag does not exist."""
        return f"unpack {self.url}, give its folder {self.folder} as --{flag}, or add --download."


def install(archive: Archive, root: Path, *, flag: str, mirror: str = "") -> None:
    """Fetches an archive and unpacks it to `root`, unless that folder has content already.

    The archive file is kept next to the folder that it unpacks to, and may be deleted.

    Args:
      root: where the archive's folder belongs; must end with archive.folder.
      flag: the flag that gave `root`, for messages.
      mirror: folder of another web server to fetch the file from.
    Raises:
      UserError: if `root` ends differently, the download fails, or it is not the published file.
    """
    if root.is_dir() and any(root.iterdir()):
        print(f"{root} exists, so it is not fetched; remove it to fetch it again.")
        return

    folder = PurePosixPath(archive.folder)
    root = root.absolute()
    if root.parts[-len(folder.parts) :] != folder.parts:
        raise UserError(
            f"--{flag}={root} cannot be filled by --download, because {archive.file_name} unpacks "
            f"to {folder}; give a path that ends with it."
        )
    parent = root.parents[len(folder.parts) - 1]
    path = fetch(archive, parent, mirror=mirror)

    # Unpacked into a hidden folder first, so that `root` appears complete or not at all.
    building = parent / f".{archive.file_name}-unpacking"
    shutil.rmtree(building, ignore_errors=True)
    print(f"Unpacking {path}.", flush=True)
    try:
        unpack(path, building)
        if not (building / folder).is_dir():
            raise UserError(f"{path} does not hold the folder {folder}; it is another archive.")
        root.parent.mkdir(parents=True, exist_ok=True)
        if root.is_dir():  # empty
            root.rmdir()
        os.rename(building / folder, root)
    finally:
        shutil.rmtree(building, ignore_errors=True)


def fetch(archive: Archive, folder: Path, *, mirror: str = "", advice: str = "") -> Path:
    """Downloads an archive into a folder; continues an interrupted download; returns its path.

    Args:
      advice: what else the user can do if this fails; by default, what a builder's flags allow.
    Raises:
      UserError: if the server cannot be reached, or the file is not the published one.
    """
    path = folder / archive.file_name
    difference = _difference(path, archive) if path.is_file() else ""
    if path.is_file() and not difference:
        return path

    url = f"{mirror.rstrip('/')}/{archive.file_name}" if mirror else archive.url
    if not url.lower().startswith(("http://", "https://")) or not url.isascii() or " " in url:
        raise no_address(url)
    folder.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".part")
    advice = advice or f"fetch the file by hand to {path}, or give another --download_mirror"
    if difference:
        advice = f"{path} exists, but {difference}; {advice}"

    was_continued = partial.is_file()
    _fetch(url, partial, archive.size, advice)
    problem = _difference(partial, archive)
    if problem and was_continued:  # what was there may have been the start of another file
        partial.unlink()
        _fetch(url, partial, archive.size, advice)
        problem = _difference(partial, archive)
    if problem:
        partial.unlink()
        raise UserError(f"What {url} sent {problem}, so it was deleted; {advice}.")
    os.replace(partial, path)
    return path


def no_address(url: str) -> UserError:
    """Returns the error that says what an address must be like."""
    return UserError(f"{url} is not an address of the web; give one with http:// or https://.")


def _fetch(url: str, partial: Path, size: int, advice: str) -> None:
    """Downloads the rest of a file, in several attempts if necessary."""
    for attempt in range(_ATTEMPTS):
        try:
            _download(url, partial, size)
            return
        except _NETWORK_FAULTS as error:
            code = getattr(error, "code", 0)
            if code and code not in _TEMPORARY_ANSWERS:
                raise UserError(f"{url} answers {code}; {advice}.") from None
            # If the first attempt finds no server, there is no network or no such server.
            if attempt == _ATTEMPTS - 1 or (not attempt and _is_unreachable(error)):
                reason = getattr(error, "reason", error)
                if _size_of(partial):
                    advice = f"the same command goes on where it stopped, or {advice}"
                raise UserError(f"{url} cannot be fetched ({reason}); {advice}.") from None
            time.sleep(2**attempt)


def _is_unreachable(error: BaseException) -> bool:
    """Whether there was no connection: no network, no such name or no such server."""
    reason = getattr(error, "reason", None)
    kinds = (socket.gaierror, TimeoutError)
    return isinstance(reason, kinds) or getattr(reason, "errno", None) in _UNREACHABLE


def _size_of(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def _download(url: str, partial: Path, size: int) -> None:
    """Downloads what `partial` lacks; a server that cannot send a part sends the whole file again.

    Args:
      size: published size of the file in bytes; 0 if none is published.
    """
    done = _size_of(partial)
    try:
        request = urllib.request.Request(url, headers={"Range": f"bytes={done}-"} if done else {})
        response = urllib.request.urlopen(request, timeout=_TIMEOUT_SECONDS)
    except (ValueError, http.client.InvalidURL):
        raise no_address(url) from None
    except urllib.error.HTTPError as error:
        if error.code == 416:  # range not satisfiable: the file is complete
            return
        raise

    with response:
        if not response.headers.get("Content-Range", "").startswith(f"bytes {done}-"):
            done = 0  # the server has sent the whole file, not the part that was asked for
        length = response.headers.get("Content-Length", "")
        total = done + int(length) if length.isdecimal() else size
        if size and total != size:
            raise UserError(f"{url} has {total} bytes, but the published file has {size}.")

        bar = {"total": total, "initial": done, "unit": "B", "unit_scale": True}
        with (
            partial.open("ab" if done else "wb") as file,
            tqdm(**bar, desc=partial.stem, disable=None) as progress,
        ):
            while block := response.read(_BLOCK):
                file.write(block)
                progress.update(len(block))

    if partial.stat().st_size < total:
        raise EOFError("the connection ended early")


def _difference(path: Path, archive: Archive) -> str:
    """Returns how a file differs from the published one; empty if it does not."""
    size = path.stat().st_size
    if archive.size and size != archive.size:
        return f"has {size} bytes, not {archive.size}"
    digest = digest_of(path, archive.algorithm)
    if not digest.startswith(archive.digest):
        return f"has the {archive.algorithm} {digest}, not {archive.digest}"
    return ""


def digest_of(path: Path, algorithm: str) -> str:
    """Returns a file's hash in hexadecimal digits."""
    digest = hashlib.new(algorithm)
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def unpack(path: Path, folder: Path) -> None:
    """Unpacks a tar (plain, gz, bz2, xz) or zip file into a new folder.

    Raises:
      UserError: if the archive is damaged, or a member would land outside the folder or is neither
        a file nor a folder (a data set needs no links or devices).
    """
    folder.mkdir(parents=True)
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                for info in archive.infolist():
                    kind = stat.S_IFMT(info.external_attr >> 16)
                    _require_inside(path, info.filename, kind in (0, stat.S_IFREG, stat.S_IFDIR))
                    archive.extract(info, folder)
        else:
            with tarfile.open(path) as tar:
                for member in tar:
                    _require_inside(path, member.name, member.isfile() or member.isdir())
                    tar.extract(member, folder, set_attrs=False)
    except _DAMAGED_ARCHIVE as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"{path} cannot be unpacked ({reason}); fetch it again.") from None


def _require_inside(archive: Path, name: str, is_plain: bool) -> None:
    path = PurePosixPath(name.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts or not is_plain:
        raise UserError(
            f"{archive} holds {name!r}, which is not a plain file inside its folder; "
            "it was not unpacked."
        )
