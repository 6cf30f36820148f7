"""Where the images that predict takes come from: files, addresses and standard input."""

import os
import sys
import tempfile
import urllib.parse
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Protocol

import numpy as np

from deeplab_tf import archives, files
from deeplab_tf.data import decoding, image_files
from deeplab_tf.data.image_kinds import ImageKind
from deeplab_tf.messages import UserError

STANDARD_INPUT = "-"
_MOST_BYTES = 2**30  # as for files


class ImageSource(Protocol):
    """One image; `str` gives its name in messages. ending: the ending of its file's name."""

    @property
    def ending(self) -> str: ...

    def read(self, kind: ImageKind) -> tuple[np.ndarray, bool]:
        """Returns what `image_files.read_image_and_loss` does; raises UserError."""

    def state(self) -> list | None:
        """Returns JSON values that change if the image changes; None if nobody can know."""


@dataclass(frozen=True)
class ImageFile:
    """An image file."""

    path: Path

    @property
    def ending(self) -> str:
        """Returns .jpg, for example."""
        return self.path.suffix

    def read(self, kind: ImageKind) -> tuple[np.ndarray, bool]:
        """Returns the image and whether something was lost."""
        return image_files.read_image_and_loss(self.path, kind)

    def state(self) -> list | None:
        """Returns path, size and time of the file."""
        try:
            status = self.path.stat()
        except OSError:
            return None
        return [os.path.realpath(self.path), status.st_size, status.st_mtime_ns]

    def __str__(self) -> str:
        return str(self.path)


@dataclass(frozen=True)
class VideoFile(ImageFile):
    """A video; each frame is an image."""

    def read(self, kind: ImageKind) -> tuple[np.ndarray, bool]:
        """Raises NotImplementedError: `inference.video` reads the frames."""
        raise NotImplementedError


@dataclass(frozen=True)
class ImageAddress:
    """An image on the web; the next download may give another one."""

    url: str

    @property
    def name(self) -> str:
        """The name of its outputs: the file's name in the address, without ending."""
        return files.safe_name(self._path.stem, otherwise="image")

    @property
    def ending(self) -> str:
        """Returns .jpg, for example."""
        return self._path.suffix

    @property
    def _path(self) -> PurePosixPath:
        return PurePosixPath(urllib.parse.unquote(urllib.parse.urlsplit(self.url).path))

    def read(self, kind: ImageKind) -> tuple[np.ndarray, bool]:
        """Fetches the image; returns it and whether something was lost."""
        archive = archives.Archive(self.url, "sha256", "", folder="")
        if archive.file_name in ("", "..", "/"):
            raise UserError(
                f"{files.shown(self.url)} is the address of no file; give one that ends in an "
                "image's name."
            )
        advice = "fetch the file by hand and give its path as --input"
        with tempfile.TemporaryDirectory() as folder:
            path = archives.fetch(archive, Path(folder), advice=advice)
            return image_files.decode_image(decoding.read_file(path), self.url, kind)

    def state(self) -> list | None:
        """Returns None."""
        return None

    def __str__(self) -> str:
        return self.url


@dataclass(frozen=True)
class StandardInput:
    """The content of one image file, piped in."""

    name = "stdin"
    ending = ""

    def read(self, kind: ImageKind) -> tuple[np.ndarray, bool]:
        """Reads the image to its end; returns it and whether something was lost."""
        content = sys.stdin.buffer.read(_MOST_BYTES + 1)
        if not content:
            raise UserError(
                "--input=- has nothing to read: pipe an image file in, as in "
                "`cat photo.jpg | python -m deeplab_tf.predict --input=- ...`."
            )
        if len(content) > _MOST_BYTES:
            raise UserError(f"--input=- brings more than {_MOST_BYTES >> 20} MiB; give a file.")
        return image_files.decode_image(content, "standard input", kind)

    def state(self) -> list | None:
        """Returns None."""
        return None

    def __str__(self) -> str:
        return "standard input"


def is_address(part: str) -> bool:
    """Whether a part of --input is an address of the web."""
    return part.lower().startswith(("http://", "https://"))
