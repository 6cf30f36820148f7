"""One weights source, whatever it is, by its path, address or name."""

import contextlib
import glob
import hashlib
import os
import re
import shutil
import urllib.parse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from deeplab_tf.config import UserError
from deeplab_tf.data import archives
from deeplab_tf.weights import imagenet, official, ssseg, torch_file
from deeplab_tf.weights.mapping import Source

KINDS = (
    "a .pth or .pt file (SSSegmentation, mmsegmentation, torchvision, openmmlab), an official "
    "TensorFlow 1 checkpoint (model.ckpt-N, its folder or .tar.gz), keras.applications:ResNet50, "
    "ResNet101 or ResNet152, or keras_cv:PRESET"
)
_HASH_IN_NAME = ("download.openmmlab.com", "download.pytorch.org")
_TABLE_END = bytes.fromhex("57fb808b247547db")  # tensorflow/core/lib/io/format.h
_TARS = (".tar.gz", ".tgz", ".tar")


def read(
    source: str,
    *,
    output_stride: int = 16,
    atrous_rates: tuple[int, ...] = (),
    multi_grid: tuple[int, ...] = (),
    backbone_only: bool = False,
) -> Source:
    """Reads weights of another program.

    Args:
      source: a path, an http(s) address, or the name of a published Keras model.
      output_stride, atrous_rates, multi_grid: how the network is dilated, which files do not say.
      backbone_only: leaves out the heads, whatever they are.
    Raises:
      UserError: if it is nothing known, is damaged, or its network is another.
    """
    settings: dict[str, Any] = {
        "output_stride": output_stride,
        "atrous_rates": atrous_rates,
        "multi_grid": multi_grid,
    }
    if is_named(source):
        return imagenet.read(source, **settings)
    path = _download(source) if "://" in source else Path(source)
    with _deleted_if_unreadable(path, source):
        if path.name.endswith(_TARS):
            path = _unpacked(path)
        prefix = _checkpoint_at(path, source)
        if not prefix and not path.is_file():
            raise UserError(f"{source} does not exist; allowed: {KINDS}.")
        arrays = {} if prefix else ssseg.state_dict(torch_file.load(path), str(path))
    if prefix:
        return official.read(prefix, backbone_only=backbone_only, **settings)
    return ssseg.read(arrays, str(path), backbone_only=backbone_only, **settings)


def is_named(source: str) -> bool:
    """Whether a source is the name of a Keras model, not a path."""
    return source.startswith((imagenet.APPLICATIONS, imagenet.KERAS_CV))


@contextlib.contextmanager
def _deleted_if_unreadable(path: Path, source: str) -> Iterator[None]:
    """Deletes a download that is no weights file, or it would be met again at every call."""
    try:
        yield
    except UserError as error:
        if "://" not in source:
            raise
        path.unlink(missing_ok=True)
        raise UserError(f"What {source} sent was deleted: {error}") from None


def _checkpoint_at(path: Path, source: str) -> str:
    """Returns a TensorFlow checkpoint's prefix, given by itself, a file of it or its folder."""
    if path.is_dir():
        found = sorted(path.glob("**/*.index")) or sorted(filter(_is_first_format, _files(path)))
        if len(found) != 1:
            whole = [file.stem for file in found] or [file.name for file in _files(path)[:3]]
            raise UserError(
                f"{source} must hold one TensorFlow checkpoint with its .index file; it holds: "
                f"{', '.join(whole) or 'nothing'}."
            )
        path = found[0]
    if _is_first_format(path):
        return str(path)
    name = re.sub(r"\.(index|meta|data-\d{5}-of-\d{5})$", "", str(path))
    if Path(f"{name}.index").is_file():
        return name
    if list(Path(name).parent.glob(f"{glob.escape(Path(name).name)}.data-?????-of-?????")):
        raise UserError(f"{source} lacks {name}.index, without which a checkpoint can not be read.")
    return ""


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _is_first_format(path: Path) -> bool:
    """Whether a file is a checkpoint of TensorFlow's first format: one file, a sorted table."""
    if not path.is_file() or path.suffix == ".index" or path.stat().st_size < len(_TABLE_END):
        return False
    with path.open("rb") as file:
        file.seek(-len(_TABLE_END), os.SEEK_END)
        return file.read() == _TABLE_END


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "deeplab_tf"


def _download(url: str) -> Path:
    """Fetches a file into the user's cache, one folder for each address.

    The names of openmmlab's and PyTorch's files end in the start of their SHA-256.
    """
    try:
        parts = urllib.parse.urlsplit(url)
    except ValueError:
        raise archives.no_address(url) from None
    known = parts.netloc in _HASH_IN_NAME
    digest = re.search(r"-([0-9a-f]{8,64})\.\w+$", parts.path) if known else None
    archive = archives.Archive(url, "sha256", digest[1] if digest else "", folder="")
    if archive.file_name in ("", ".."):
        raise UserError(f"{url} is the address of no file; give one that ends in a file's name.")
    folder = _cache() / hashlib.sha256(url.encode()).hexdigest()[:16]
    return archives.fetch(
        archive, folder, advice="fetch the file by hand and give its path in place of the address"
    )


def _unpacked(path: Path) -> Path:
    """Unpacks a tar into the user's cache, unless it was, as it is now."""
    if not path.is_file():
        raise UserError(f"{path} does not exist; allowed: {KINDS}.")
    state = path.stat()
    identity = f"{path.resolve()}|{state.st_size}|{state.st_mtime_ns}"
    folder = _cache() / hashlib.sha256(identity.encode()).hexdigest()[:16] / "unpacked"
    if not folder.is_dir():
        building = folder.with_name("unpacking")
        shutil.rmtree(building, ignore_errors=True)
        archives.unpack(path, building)
        os.rename(building, folder)
    return folder
