"""Which image files a command line names; standard library alone."""

import glob
from pathlib import Path

from deeplab_tf.config import UserError

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")


def find_images(text: str, *, flag: str) -> list[tuple[str, Path]]:
    """Returns name and path of the images that files, folders and globs name, joined by commas.

    An image in a folder is named by its path there, others by their file name, without ending.

    Args:
      flag: the flag that `text` was given to, for the error.
    Raises:
      UserError: if a part names no image, or there are only commas.
    """
    found: list[tuple[str, Path]] = []
    for part in filter(None, text.split(",")):
        path = Path(part)
        if path.is_dir():
            files = sorted(p for p in path.rglob("*") if p.suffix.lower() in SUFFIXES)
            named = [(p.relative_to(path).with_suffix("").as_posix(), p) for p in files]
        else:
            files = [path] if path.is_file() else sorted(map(Path, glob.glob(part, recursive=True)))
            named = [(p.stem, p) for p in files if p.is_file()]
        if not named:
            raise UserError(
                f"--{flag}={part} names no image; give existing files, folders or globs."
            )
        found += named
    if text and not found:
        raise UserError(f"--{flag}={text} names no image; give existing files, folders or globs.")
    return found
