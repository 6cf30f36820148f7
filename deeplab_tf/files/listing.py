"""Lists image files, and counts every file that is left out."""

import contextlib
import glob
import hashlib
import os
import shlex
import stat
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from deeplab_tf.files.names import shown
from deeplab_tf.files.reading import read_bytes
from deeplab_tf.messages import UserError, warn

IMAGE_ENDINGS = (
    ".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".dib", ".webp", ".tif", ".tiff",
)  # fmt: skip
ARRAY_ENDING = ".npy"  # of arrays that are images where a data set's are not 8-bit RGB
_VIDEO_ENDINGS = (
    ".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".wmv", ".flv", ".3gp",
)  # fmt: skip
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
    folder: Path,
    *,
    endings: Sequence[str] = IMAGE_ENDINGS,
    without: Path | None = None,
    why_left_out: Callable[[Path], str] = lambda folder: "",
) -> Listing:
    """Lists the image files in a folder and its subfolders, in the order of their paths.

    Links to folders are followed, unless they lead back to a folder above them. Hidden files and
    folders are left out, and so are files with other endings.

    Args:
      endings: endings of the wanted files, in lower case.
      without: a folder to skip, whichever link leads to it; what it holds is not counted.
      why_left_out: returns the reason why a subfolder is left out; "" if it is listed.
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
            is_folder = path.is_dir()  # entry.is_dir() fails for some links
            if is_folder and not _is_litter(path):
                if of_folder := why_left_out(path):
                    listing.left_out[of_folder] += 1
                    continue
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


def find_images(
    parts: Sequence[str],
    *,
    flag: str,
    takes_videos: bool = False,
    why_left_out: Callable[[Path], str] = lambda folder: "",
) -> Listing:
    """Lists the images that are given as files, folders and globs.

    An existing path is never read as a glob, even if it contains brackets or stars. Files given by
    name may have any ending, and so may the matches of a glob with an ending (`*.gif`); folders and
    other globs give only images. The name of an image in a folder is its path there, without
    ending; the name of any other image is its file name, without ending.

    Args:
      flag: the flag with these parts, for errors.
      takes_videos: whether videos count as images, if they are given by name or by a glob with
        their ending; in folders, they are left out in any case.
      why_left_out: as `list_folder` takes it.
    Raises:
      UserError: if a part names no image, or a video that is not taken.
    """
    listing = Listing()
    for part in parts:
        path = Path(part)
        if path.is_dir():
            of_part = list_folder(path, why_left_out=why_left_out)
        elif os.path.lexists(path):
            of_part = Listing([(path.stem, path)])
        else:
            of_part = _list_glob(part)

        for _, file in of_part.images:
            if not takes_videos:
                _refuse_video(file, flag)
        if not of_part.images:
            left_out = f" ({of_part.note()})" if of_part.left_out else ""
            raise UserError(
                f"--{flag}={shown(part)} names no image{left_out}; give existing files, folders "
                f"or globs of images ({', '.join(IMAGE_ENDINGS)})"
                f"{_glob_of_others(path, flag, takes_videos=takes_videos)}."
            )
        listing.images += of_part.images
        listing.left_out += of_part.left_out
    return listing


def _glob_of_others(folder: Path, flag: str, *, takes_videos: bool) -> str:
    """Returns which glob names the videos or arrays of a folder; "" if it has none."""
    for path in sorted(folder.rglob("*")):
        is_array = path.suffix.lower() == ARRAY_ENDING
        if path.is_file() and (is_array or (takes_videos and is_video(path))):
            pattern = shlex.quote(shown(Path(glob.escape(str(path.parent))) / f"*{path.suffix}"))
            what = (
                "for the arrays, if the model takes such images" if is_array else "for the videos"
            )
            return f", or --{flag}={pattern} {what}"
    return ""


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


def is_video(path: Path) -> bool:
    """Whether the ending of a file is a video's."""
    return path.suffix.lower() in _VIDEO_ENDINGS


def _refuse_video(path: Path, flag: str) -> None:
    if is_video(path):
        raise UserError(
            f"--{flag}={shown(path)} is a video, whose frames are not read; extract them with "
            f"mkdir frames && ffmpeg -i {shlex.quote(shown(path))} frames/%06d.png, then give "
            f"--{flag}=frames."
        )
