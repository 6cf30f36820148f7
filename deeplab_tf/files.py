"""Handles users' files: lists images, reads text lists, writes files, reads depths from headers.

Uses only the standard library, so every module may import it. Listings count every file that they
leave out. Text lists are read the same way whatever program wrote them. Depths are read from file
headers, since Pillow opens many deeper images as if they had 8 bits.
"""

import codecs
import contextlib
import errno
import fcntl
import glob
import hashlib
import os
import re
import secrets
import shlex
import shutil
import stat
import struct
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from deeplab_tf.messages import UserError, warn

IMAGE_ENDINGS = (
    ".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".dib", ".webp", ".tif", ".tiff",
)  # fmt: skip
_VIDEO_ENDINGS = (
    ".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".wmv", ".flv", ".3gp",
)  # fmt: skip
# The largest files that are read into memory: more than an image of the largest size can need, and
# more than any list.
_MOST_BYTES, _MOST_BYTES_OF_TEXT = 2**30, 2**27
_MOST_BYTES_OF_NAME, _MOST_BYTES_OF_PATH = 255, 4095  # limits.h of Linux
_LITTER = ("thumbs.db", "desktop.ini", "__macosx")  # what systems leave in folders, in lower case


@dataclass
class Listing:
    """Image files, and how many files were left out.

    images: name and path of each image; the name is its path in the folder, with slashes and
      without ending.
    left_out: number of files left out, by the reason: an ending, a name, a leading dot.
    """

    images: list[tuple[str, Path]] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)

    def note(self) -> str:
        """Returns what was left out, such as "left out: 3 hidden, 2 .txt"; "" if nothing was."""
        reasons = sorted(self.left_out.items(), key=lambda item: (-item[1], item[0]))
        parts = [f"{count} {reason}" for reason, count in reasons[:8]]
        if others := sum(count for _, count in reasons[8:]):
            parts.append(f"{others} others")
        return "left out: " + ", ".join(parts) if parts else ""


def list_folder(
    folder: Path, *, endings: Sequence[str] = IMAGE_ENDINGS, without: Path | None = None
) -> Listing:
    """Lists the image files in a folder and its subfolders, in the order of their paths.

    Links to folders are followed, unless they lead back to a folder above them. Hidden files and
    folders are left out, and so are files with other endings.

    Args:
      endings: endings of the wanted files, in lower case.
      without: a folder to skip, whichever link leads to it; what it holds is not counted.
    Raises:
      UserError: if a folder cannot be read.
    """
    listing = Listing()
    skipped = _identity(without) if without else None

    def walk(subfolder: Path, parents: tuple) -> Iterator[Path]:
        try:
            identity = _identity(subfolder)
            entries = list(os.scandir(subfolder))
        except OSError as error:
            raise UserError(
                f"The folder {shown(subfolder)} cannot be read: {error.strerror}."
            ) from None
        if identity in parents:
            listing.left_out["link that leads back"] += 1
            return
        if identity == skipped:
            return

        for entry in entries:
            path = subfolder / entry.name
            reason = _why_left_out(path, endings)
            if entry.is_dir() and not _is_litter(path):
                yield from walk(path, (*parents, identity))
            elif reason:
                listing.left_out[reason] += 1
            else:
                yield path

    paths = sorted(walk(folder, ()), key=lambda path: path.parts)
    listing.images = [(path.relative_to(folder).with_suffix("").as_posix(), path) for path in paths]
    return listing


def _identity(folder: Path) -> tuple[int, int]:
    """Returns device and inode of a folder, which are the same whichever link leads to it."""
    state = folder.stat()
    return state.st_dev, state.st_ino


def _is_litter(path: Path) -> bool:
    return path.name.startswith(".") or path.name.lower() in _LITTER


def _why_left_out(path: Path, endings: Sequence[str] = IMAGE_ENDINGS) -> str:
    """Returns the reason why a path is left out of a listing; "" if it is listed."""
    if _is_litter(path):
        return "hidden (.*)" if path.name.startswith(".") else path.name

    ending = path.suffix.lower()
    if ending not in endings:
        return shown(ending) if ending else "without ending"

    try:
        mode = path.stat().st_mode
    except OSError:
        return ""  # a broken link is listed, so that reading it reports the missing image
    return "" if stat.S_ISREG(mode) or stat.S_ISDIR(mode) else "not a file"


def first_of_equals(paths: Iterable[Path]) -> dict[Path, Path]:
    """Maps each file to the first file with the same content, which is usually the file itself.

    Only files that share their size with another are read. Files that cannot be read are left out.
    """
    by_size: dict[int, dict[Path, None]] = {}  # the inner dict holds each path once, in order
    for path in paths:
        with contextlib.suppress(OSError):
            by_size.setdefault(path.stat().st_size, {})[path] = None

    first_of: dict[Path, Path] = {}
    for candidates in by_size.values():
        first_with: dict[bytes, Path] = {}
        for path in candidates:
            with contextlib.suppress(OSError):
                content = read_bytes(path) if len(candidates) > 1 else b""
                digest = hashlib.sha256(content).digest()
                first_of[path] = first_with.setdefault(digest, path)
    return first_of


def warn_of_left_out(folder: Path, taken: str, listing: Listing) -> None:
    """Warns of files in a folder that were left out; `taken` says what was not: "2 images"."""
    if listing.left_out:
        warn(f"{folder}: {taken}; {listing.note()}.")


def find_images(parts: Sequence[str], *, flag: str) -> Listing:
    """Lists the images that are given as files, folders and globs.

    An existing path is never read as a glob, even if it contains brackets or stars. Files given by
    name may have any ending, and so may the matches of a glob with an ending (`*.gif`); folders and
    other globs give only images. The name of an image in a folder is its path there, without
    ending; the name of any other image is its file name, without ending.

    Args:
      flag: the flag with these parts, for errors.
    Raises:
      UserError: if a part names no image, or a video.
    """
    listing = Listing()
    for part in parts:
        path = Path(part)
        if path.is_dir():
            of_part = list_folder(path)
        elif os.path.lexists(path):
            of_part = Listing([(path.stem, path)])
        else:
            of_part = _list_glob(part)

        for _, file in of_part.images:
            _refuse_video(file, flag)
        if not of_part.images:
            left_out = f" ({of_part.note()})" if of_part.left_out else ""
            raise UserError(
                f"--{flag}={shown(part)} names no image{left_out}; give existing files, folders "
                f"or globs of images ({', '.join(IMAGE_ENDINGS)})."
            )
        listing.images += of_part.images
        listing.left_out += of_part.left_out
    return listing


def _list_glob(pattern: str) -> Listing:
    listing = Listing()
    ending = Path(pattern).suffix
    takes_all = bool(ending) and glob.escape(ending) == ending  # such as *.gif, but not *.*
    for path in sorted(map(Path, glob.glob(pattern, recursive=True)), key=lambda p: p.parts):
        reason = "" if takes_all else _why_left_out(path)
        reason = "folder" if path.is_dir() else reason
        if reason:
            listing.left_out[reason] += 1
        else:
            listing.images.append((path.stem, path))
    return listing


def _refuse_video(path: Path, flag: str) -> None:
    if path.suffix.lower() in _VIDEO_ENDINGS:
        raise UserError(
            f"--{flag}={shown(path)} is a video, whose frames are not read; extract them with "
            f"mkdir frames && ffmpeg -i {shlex.quote(shown(path))} frames/%06d.png, then give "
            f"--{flag}=frames."
        )


def shown(text: object, *, most: int = 0) -> str:
    """Returns a name as one printable line; escapes line ends and bytes that are not UTF-8.

    Args:
      most: about how many letters of a longer name are kept; 0 keeps all.
    """
    name = str(text)
    name = f"{name[:most]}..." if most and len(name) > most else name
    escaped = name.encode("utf-8", "backslashreplace").decode()
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in escaped)


def open_regular(path: Path) -> BinaryIO:
    """Opens a file for reading, without a buffer.

    Raises:
      OSError: if it cannot be opened, or is not a file, such as a pipe or a device: those may keep
        a program waiting, or never end.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # else a pipe waits for its writer
    mode = os.fstat(descriptor).st_mode
    if stat.S_ISREG(mode):
        return os.fdopen(descriptor, "rb", buffering=0)
    os.close(descriptor)
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    raise OSError(errno.EINVAL, "it is a pipe or a device, not a file", str(path))


def read_bytes(path: Path, *, most: int = _MOST_BYTES) -> bytes:
    """Reads a file of at most `most` bytes.

    Raises:
      OSError: if it cannot be read, is larger, is being written, or is not a file.
    """
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size > most:
            limit = f"it has more than {most >> 20} MiB, the most that is read"
            raise OSError(errno.EFBIG, limit, str(path))
        content = file.read(size + 1)
    if len(content) != size:
        raise OSError(errno.EBUSY, "another program is writing it", str(path))
    return content


def path_below(
    folder: Path,
    name: str,
    ending: str = "",
    *,
    advice: str = "rename the image and build the data set again",
) -> Path:
    """Returns the path of a file in a folder, from a name that comes from data.

    The name may have folders of its own; a leading slash counts for nothing.

    Args:
      ending: what is added to the name.
      advice: what the user can do about a name that is refused.
    Raises:
      UserError: if the name leads out of the folder, or no file can have it.
    """
    parts = [part for part in name.split("/") if part not in ("", ".")]
    problem = ""
    if not parts:
        problem = "is empty"
    elif ".." in parts:
        problem = "leads out of the folder"
    elif re.search("[\0-\x1f\x7f]", name):
        problem = "contains a control character"
    else:
        parts[-1] += ending
        longest = max(len(os.fsencode(part)) for part in parts)
        whole = len(os.fsencode(folder.joinpath(*parts)))
        if longest > _MOST_BYTES_OF_NAME or whole > _MOST_BYTES_OF_PATH:
            problem = "is too long"
    if problem:
        start = name if len(name) <= 80 else f"{name[:80]}..."
        raise UserError(
            f"No file in {shown(folder)} can have the name '{shown(start)}': it {problem}; "
            f"{advice}."
        )
    return folder.joinpath(*parts)


def write(path: Path, content: bytes | str) -> None:
    """Writes a file, completely or not at all, and creates its folders; text becomes UTF-8.

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
            # Some disks say only now that they are full, and after a power failure the new name
            # would else stand for an empty file.
            os.fsync(file.fileno())
            os.replace(temporary, path)
    except OSError as error:  # of a full disk it would name no file, else the temporary one
        raise OSError(error.errno, error.strerror, str(path)) from None
    finally:
        if temporary:
            temporary.unlink(missing_ok=True)


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


_TEMPORARY_ENDING = "-writing"
_cleared: set[Path] = set()  # folders in which this process has looked for leftovers


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
    created = [folder, *(place for place in folder.parents if not place.exists())]
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
        # A file, not the folder: NFS locks only what is open for writing.
        with path.open("ab") as file:
            has_locks = _lock(file, busy)
            if has_locks and not _is_at(path, file):
                continue  # the holder before has ended meanwhile, and removed it
            try:
                yield
            finally:
                if has_locks:
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


# TensorFlow adds to a folder's path what it writes there, such as
# variables/variables_temp/part-00000-of-00001.data-00000-of-00001.tempstate1234567890123456789.
_LONGEST_FOLDER = 4096 - 256  # bytes; the first number is a limit of Linux (limits.h)
_LONGEST_NAME = 255


def require_plain(folder: Path, what: str) -> None:
    """Raises UserError unless TensorFlow can write weights to a folder and read them again.

    Args:
      what: what errors call the folder, such as "The run's folder".
    """
    name = f"{what} {shown(folder)}"
    # TensorFlow would write checkpoints to such a path, and then find none of them.
    pattern = re.search(r"\[.*\]|[\\*?]", str(folder))
    if pattern:
        raise UserError(
            f"{name} has {shown(pattern[0])} in its path, which TensorFlow takes for a pattern "
            "when it reads checkpoints; rename it, or give another path."
        )
    if re.search("[\0-\x1f\x7f\ud800-\udfff]", str(folder)):
        raise UserError(
            f"{name} has control characters, or bytes that are not UTF-8, in its path; rename it, "
            "or give another path."
        )
    full = Path(os.path.abspath(folder))
    longest = max(len(os.fsencode(part)) for part in full.parts)
    if longest > _LONGEST_NAME or len(os.fsencode(full)) > _LONGEST_FOLDER:
        raise UserError(
            f"{what} {shown(folder)[:40]}... has a path that is too long; allowed: "
            f"{_LONGEST_NAME} bytes in each name, {_LONGEST_FOLDER} in all."
        )


def same_place(folder: Path, one: str, other: str) -> bool:
    """Whether two names mean the same file in `folder`, as on file systems that ignore case.

    Finds out by creating one of them, there or in the nearest existing folder above.
    """
    while not folder.exists():
        folder = folder.parent
    with tempfile.TemporaryDirectory(dir=folder, prefix=".") as trial:
        Path(trial, one.replace("/", "_")).touch()
        return Path(trial, other.replace("/", "_")).exists()


def read_lines(
    path: Path, what: str, *, is_content: Callable[[str], bool] = lambda line: False
) -> list[tuple[int, str]]:
    """Reads a text list; returns number (from 1) and text of each line with content.

    The file may be UTF-8, with or without a byte order mark, or UTF-16 or UTF-32 with one, with the
    line ends of any system. White space around lines is dropped, and so are empty lines and
    comments, which start with '#'.

    Args:
      what: what errors call the file, such as "The class list".
      is_content: whether a line that starts with '#' is content after all: file names may start so.
    Raises:
      UserError: if the file is missing, is not text, has another encoding, or has no content.
    """
    numbered = enumerate(read_text(path, what).split("\n"), start=1)
    stripped = ((number, line.strip()) for number, line in numbered)
    lines = [
        (number, line)
        for number, line in stripped
        if line and (not line.startswith("#") or is_content(line))
    ]
    if not lines:
        raise UserError(f"{what} {shown(path)} is empty, or has only comments.")
    return lines


# The order matters: UTF-32's mark starts with UTF-16's.
_MARKS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}


def read_text(path: Path, what: str) -> str:
    r"""Reads a text file in any encoding that `read_lines` takes; its lines end in \n.

    Raises:
      UserError: if the file is missing, is not text, or has another encoding.
    """
    name = f"{what} {shown(path)}"
    try:
        content = read_bytes(path, most=_MOST_BYTES_OF_TEXT)
    except FileNotFoundError:
        raise UserError(f"{name} does not exist.") from None
    except OSError as error:
        raise UserError(f"{name} cannot be read: {error.strerror}.") from None
    return re.sub(r"\r\n|\r", "\n", _decoded(content, name))


def _decoded(content: bytes, name: str) -> str:
    """Returns the text of a file, decoded by its byte order mark, else as UTF-8."""
    encoding = next((code for mark, code in _MARKS.items() if content.startswith(mark)), "utf-8")
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as error:
        line = len(re.findall(rb"\r\n|\r|\n", content[: error.start])) + 1
        place = f" in line {line}" if encoding.startswith("utf-8") else ""
        raise UserError(
            f"{name} is not UTF-8 text{place}; save it as UTF-8 ('iconv -f LATIN1 -t UTF-8' "
            "converts what older programs write)."
        ) from None

    if re.search("[\0-\x08\x0e-\x1f]", text):
        raise UserError(
            f"{name} is not text: it holds control characters; give a text file in UTF-8."
        )
    return text


def deeper_than_8_bits(content: bytes) -> str:
    """Returns an image file's depth, such as "16 bits per channel", if it is over 8-bit integers.

    Returns "" for 8 bits or fewer, and for formats that are never deeper. Sources: PNG (2nd
    edition) sec. 11.2.2; TIFF 6.0 p. 16, 29 and 80, BigTIFF; ITU-T T.81 B.2.2, T.800 A.5.1;
    Netpbm's ppm(5); SGI image file format 1.00; AV1-ISOBMFF 2.3.3.
    """
    if content.startswith(b"\x89PNG\r\n\x1a\n"):
        depths = content[24:25]
    elif content[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
        return _deep_tiff(content)
    elif content.startswith(b"\xff\xd8"):
        depths = _jpeg_precision(content)
    elif content.startswith((b"\xff\x4f\xff\x51", b"\0\0\0\x0cjP  ")):  # JPEG 2000
        start = content.find(b"\xff\x4f\xff\x51")
        end = start + 42 + 3 * int.from_bytes(content[start + 40 : start + 42], "big")
        depths = bytes((size & 127) + 1 for size in content[start + 42 : end : 3])
    elif header := re.match(rb"P[2356](?:(?:\s|#[^\n]*\n)+(\d+)){3}\s", content):
        depths = b"\x10" if int(header[1]) > 255 else b""
    elif content.startswith(b"\x01\xda"):  # SGI
        depths = b"\x10" if content[3:4] == b"\2" else b""
    elif content[4:12] == b"ftypavif":
        flags = content[content.find(b"av1C") + 6 :][:1]
        depths = b"\x0a" if flags and flags[0] & 64 else b""
    else:
        depths = b""

    depth = max(depths, default=8)
    return f"{depth} bits per channel" if depth > 8 else ""


def _jpeg_precision(content: bytes) -> bytes:
    """Returns the byte of a JPEG's frame header that holds its bits per sample; b"" if none."""
    frames = (part for marker, part in jpeg_segments(content) if marker in JPEG_FRAMES)
    return next(frames, b"")[:1]


# Markers of JPEG files, ITU-T T.81 table B.1. `_JPEG_MARKER` has all that are not part of pixels.
JPEG_FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}
JPEG_SCAN, JPEG_END = 0xDA, 0xD9
JPEG_UNUSED = {*range(0x01, 0xC0), 0xD8}  # by what follows the start of a file
_JPEG_MARKER = re.compile(rb"\xff[\x01-\xcf\xd8-\xfe]")


def jpeg_segments(content: bytes) -> Iterator[tuple[int, bytes]]:
    """Yields marker and content of each segment of a JPEG, up to the end marker.

    If the file is cut, there is no end marker. What lies between the segments, such as the pixels
    after the header of a scan, is left out.
    """
    position = 2  # after the marker of the start
    while match := _JPEG_MARKER.search(content, position):
        marker, start = content[match.end() - 1], match.end()
        position = start + int.from_bytes(content[start : start + 2], "big")
        yield marker, content[start + 2 : position]
        if marker == JPEG_END:
            return


_BITS_PER_SAMPLE, _ORIENTATION, _SAMPLE_FORMAT = 258, 274, 339
_SAMPLE_KINDS = {2: "signed integers", 3: "floating point", 5: "complex", 6: "complex"}
_TIFF_NUMBERS = {1: "B", 3: "H", 4: "I"}


def _deep_tiff(content: bytes) -> str:
    """Returns the depth of a TIFF as `deeper_than_8_bits` does."""
    tags = _tiff_tags(content)
    bits = max(tags.get(_BITS_PER_SAMPLE, (1,)))
    kind = max(tags.get(_SAMPLE_FORMAT, (1,)), key=lambda number: number in _SAMPLE_KINDS)
    if kind in _SAMPLE_KINDS:
        return f"{bits} bits per channel ({_SAMPLE_KINDS[kind]})"
    return f"{bits} bits per channel" if bits > 8 else ""


def exif_orientation(exif: bytes) -> int:
    """Reads the orientation from EXIF data, which start with a TIFF header: 1 (upright) to 8.

    Returns 1 if there is no such tag, or the data are damaged before it (EXIF 2.32 sec. 4.6.4).
    """
    is_exif = exif[:4] in (b"II*\0", b"MM\0*")
    values = _tiff_tags(exif).get(_ORIENTATION, (1,)) if is_exif else (1,)
    return values[0] if len(values) == 1 and 1 <= values[0] <= 8 else 1


def _tiff_tags(content: bytes) -> dict[int, tuple[int, ...]]:
    """Reads the three tags above from the first directory of a TIFF.

    If the file is cut, it reads those that come before the cut.
    """
    order = "<" if content[:1] == b"I" else ">"
    # An entry of a directory is tag, type, count, and the value or its offset. BigTIFF has 8 bytes
    # for counts and offsets.
    is_big = content[2:4] in (b"+\0", b"\0+")
    offset, count, entry = ("Q", "Q", "HHQ8s") if is_big else ("I", "H", "HHI4s")

    tags = {}
    with contextlib.suppress(struct.error, OverflowError):  # reads beyond the end of the file
        (start,) = struct.unpack_from(order + offset, content, 8 if is_big else 4)
        (number,) = struct.unpack_from(order + count, content, start)
        start += struct.calcsize(order + count)
        for _ in range(min(number, 65535)):
            tag, kind, length, value = struct.unpack_from(order + entry, content, start)
            start += struct.calcsize(order + entry)
            if tag not in (_BITS_PER_SAMPLE, _ORIENTATION, _SAMPLE_FORMAT) or length == 0:
                continue

            # Values that do not fit into the entry lie where its value points to.
            numbers = f"{order}{min(length, 65535)}{_TIFF_NUMBERS.get(kind, 's')}"
            source, place = value, 0
            if struct.calcsize(numbers) > len(value):
                source, (place,) = content, struct.unpack(order + offset, value)
            if kind in _TIFF_NUMBERS:
                tags[tag] = struct.unpack_from(numbers, source, place)
    return tags
