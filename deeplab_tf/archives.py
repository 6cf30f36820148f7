"""Fetches published archives: resumes downloads, checks sizes and hashes.

No server is believed: a download must keep some speed, and ends at its size. The library pooch
fetches and checks too, but it does not resume, and bounds nothing.
"""

import errno
import hashlib
import http.client
import io
import os
import shutil
import socket
import ssl
import time
import urllib.error
import urllib.parse
import urllib.request
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from tqdm import tqdm

from deeplab_tf import files
from deeplab_tf.messages import UserError
from deeplab_tf.unpacking import unpack

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
_WEB = ("http://", "https://")
_MOST_UNTOLD = 4 << 30  # bytes from a server that does not say how many will come
# A connection that brings fewer bytes than this in this many seconds counts as broken.
_PACE_BYTES, _PACE_SECONDS = 60_000, 60
_TEMPORARY_ANSWERS = (408, 429, 500, 502, 503, 504)  # HTTP status codes


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


def home() -> Path:
    """Returns the user's folder for what is fetched once: $DEEPLAB_TF_HOME or ~/.cache/deeplab_tf.

    As the XDG base directories say, $XDG_CACHE_HOME takes the place of ~/.cache.
    """
    if chosen := os.environ.get("DEEPLAB_TF_HOME"):
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "deeplab_tf"


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
    if not url.lower().startswith(_WEB) or not url.isascii() or " " in url:
        raise no_address(url)
    folder.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".part")
    advice = advice or f"fetch the file by hand to {path}, or give another --download_mirror"
    if difference:
        advice = f"{path} exists, but {difference}; {advice}"

    was_continued = partial.is_file()
    _Transfer(url, partial, archive, advice).run()
    problem = _difference(partial, archive)
    if problem and was_continued:  # what was there may have been the start of another file
        partial.unlink()
        _Transfer(url, partial, archive, advice).run()
        problem = _difference(partial, archive)
    if problem:
        partial.unlink()
        raise UserError(f"What {url} sent {problem}, so it was deleted; {advice}.")
    os.replace(partial, path)
    return path


def no_address(url: str) -> UserError:
    """Returns the error that says what an address must be like."""
    return UserError(f"{url} is not an address of the web; give one with http:// or https://.")


class _Transfer:
    """One download, in several attempts; each attempt continues where the last one stopped.

    Args:
      partial: where the bytes are collected.
      archive: what is published of the file. Without a published hash, nobody would notice a
        mixture of two files. So only the attempts of this transfer are put together then, and only
        if the server says that the file has not changed between them.
      advice: what the user can do if it fails.
    """

    def __init__(self, url: str, partial: Path, archive: Archive, advice: str):
        self._url, self._partial, self._advice = url, partial, advice
        self._size, self._is_checked = archive.size, bool(archive.digest)
        self._version = ""  # of the file, as the server calls it

    def run(self) -> None:
        """Downloads what is missing."""
        was_slow = False
        for attempt in range(_ATTEMPTS):
            try:
                self._attempt()
                return
            except _NETWORK_FAULTS as error:
                # Another connection may be faster, but only once: each try takes a minute. A file
                # that would start anew is not worth even that.
                if isinstance(error, _TooSlow) and (was_slow or not self._can_continue()):
                    raise self._failure(error) from None
                was_slow = isinstance(error, _TooSlow)

                code = getattr(error, "code", 0)
                if code and code not in _TEMPORARY_ANSWERS:
                    nowhere = " (a redirection that leads nowhere)" if code // 100 == 3 else ""
                    raise UserError(
                        f"{self._url} answers {code}{nowhere}; {self._advice}."
                    ) from None
                # If the first attempt finds no server, there is no network or no such server.
                if attempt == _ATTEMPTS - 1 or (not attempt and _is_unreachable(error)):
                    raise self._failure(error) from None
                time.sleep(2**attempt)

    def _can_continue(self) -> bool:
        """Whether another attempt may go on where the last one stopped."""
        return self._is_checked or bool(self._version)

    def _failure(self, error: BaseException) -> UserError:
        advice = self._advice
        if not self._is_checked:
            self._partial.unlink(missing_ok=True)  # the next call could not go on with it
        elif _size_of(self._partial):
            advice = f"the same command goes on where it stopped, or {advice}"
        reason = files.shown(getattr(error, "reason", error), most=200)
        return UserError(f"{self._url} cannot be fetched ({reason}); {advice}.")

    def _attempt(self) -> None:
        """Downloads what is missing; a server that cannot send a part sends the whole file."""
        done = _size_of(self._partial) if self._can_continue() else 0
        headers = {"Range": f"bytes={done}-"} if done else {}
        if done and self._version:
            headers["If-Range"] = self._version
        try:
            request = urllib.request.Request(self._url, headers=headers)
            response = _opener().open(request, timeout=_TIMEOUT_SECONDS)
        except (ValueError, http.client.InvalidURL):
            raise no_address(self._url) from None
        except urllib.error.HTTPError as error:
            # Range not satisfiable: there is no more, so the hash decides.
            if error.code == 416 and done and self._is_checked:
                return
            raise

        with response:
            if response.status == 206:
                if not response.headers.get("Content-Range", "").startswith(f"bytes {done}-"):
                    self._partial.unlink(missing_ok=True)
                    raise http.client.HTTPException("it sends another part than was asked for")
            else:
                done = 0
            self._version = _version_of(response.headers)
            self._write(response, done)

    def _write(self, response: http.client.HTTPResponse, done: int) -> None:
        """Appends an answer to the first `done` bytes, unless it has too many for file or disk."""
        length = response.headers.get("Content-Length", "")
        total = done + int(length) if length.isdecimal() and len(length) < 19 else self._size
        if self._size and total != self._size:
            raise UserError(
                f"{self._url} has {total} bytes, but the published file has {self._size}."
            )
        room = shutil.disk_usage(self._partial.parent).free
        if total - done > room:
            raise UserError(
                f"{self._url} has {total - done} bytes to fetch, but there is room for {room} in "
                f"{self._partial.parent}; make room, or {self._advice}."
            )

        most = total or _MOST_UNTOLD
        untold = "" if total else "does not say how many bytes it has, and "
        bar = {"total": total or None, "initial": done, "unit": "B", "unit_scale": True}
        with (
            self._partial.open("ab" if done else "wb") as file,
            tqdm(**bar, desc=self._partial.stem, disable=None) as progress,
        ):
            while block := response.read1(_BLOCK):
                done += len(block)
                if done > most:
                    self._partial.unlink()
                    raise UserError(
                        f"{self._url} {untold}sends more than {most} bytes, so what it sent was "
                        f"deleted; {self._advice}."
                    )
                file.write(block)
                progress.update(len(block))

        if done < total:
            raise EOFError("the connection ended early")


def _is_unreachable(error: BaseException) -> bool:
    """Whether there was no connection: no network, no such name or no such server."""
    reason = getattr(error, "reason", None)
    kinds = (socket.gaierror, TimeoutError)
    return isinstance(reason, kinds) or getattr(reason, "errno", None) in _UNREACHABLE


def _size_of(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def _version_of(headers: http.client.HTTPMessage) -> str:
    """Returns what a server calls this version of a file; "" if it has no name that is certain."""
    tag = headers.get("ETag", "")
    return headers.get("Last-Modified", "") if tag.startswith("W/") or not tag else tag


class _TooSlow(TimeoutError):
    """A connection brought too few bytes in too much time."""


class _Paced(io.RawIOBase):
    """The bytes of a connection, as long as they come in at some speed.

    A timeout only bounds the wait for the next byte, which may come for ever, one by one.
    """

    def __init__(self, connection: io.RawIOBase):
        self._connection = connection
        self._waited, self._came = 0.0, 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer) -> int | None:
        begin = time.monotonic()
        count = self._connection.readinto(buffer)
        self._waited += time.monotonic() - begin
        self._came += count or 0

        if self._waited > _PACE_SECONDS:
            if self._came < _PACE_BYTES:
                raise _TooSlow(f"it sent {self._came} bytes in {self._waited:.0f} seconds")
            self._waited, self._came = 0.0, 0
        return count

    def close(self) -> None:
        self._connection.close()
        super().close()


class _Response(http.client.HTTPResponse):
    """An answer, header and content, that must come in at some speed."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.fp = io.BufferedReader(_Paced(self.fp.detach()))


class _Connection(http.client.HTTPConnection):
    response_class = _Response


class _SecureConnection(http.client.HTTPSConnection):
    response_class = _Response


class _Handler(urllib.request.HTTPHandler):
    def http_open(self, req):
        return self.do_open(_Connection, req)


class _SecureHandler(urllib.request.HTTPSHandler):
    def https_open(self, req):
        return self.do_open(_SecureConnection, req)


class _Redirections(urllib.request.HTTPRedirectHandler):
    """Follows up to ten redirections, as its base does, but only on the web."""

    def redirect_request(self, req, fp, code, msg, headers, newurl):
        if not newurl.lower().startswith(_WEB):
            raise urllib.error.HTTPError(req.full_url, code, msg, headers, fp)
        fp.close()  # the base would read the page that comes with it, however long it is
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _opener() -> urllib.request.OpenerDirector:
    return urllib.request.build_opener(_Handler, _SecureHandler, _Redirections)


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
