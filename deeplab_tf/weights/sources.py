"""Reads the weights of another program, given by path, address or name, and tells their kind."""

import contextlib
import dataclasses
import fcntl
import glob
import hashlib
import logging
import os
import re
import shutil
import urllib.parse
from collections.abc import Iterator
from pathlib import Path

from deeplab_tf import archives, unpacking
from deeplab_tf.messages import UserError
from deeplab_tf.weights import imagenet, mapping, mmseg_config, ssseg, torch_file
from deeplab_tf.weights.mapping import Source
from deeplab_tf.weights.official import reader
from deeplab_tf.weights.untold import Untold

KINDS = (
    "a .pth or .pt file (SSSegmentation, mmsegmentation, torchvision, openmmlab), an official "
    "TensorFlow 1 checkpoint (model.ckpt-N, its folder or .tar.gz) or frozen graph (.pb), "
    "keras.applications:ResNet50, ResNet101 or ResNet152, or keras_cv:PRESET"
)
# Servers whose file names end in the first digits of the file's SHA-256.
_HASH_IN_NAME = ("download.openmmlab.com", "download.pytorch.org")
_TABLE_END = bytes.fromhex("57fb808b247547db")  # tensorflow/core/lib/io/format.h
_TARS = (".tar.gz", ".tgz", ".tar")
_HASH = re.compile(r"-([0-9a-f]{8,64})\.\w+$")  # in the file names of openmmlab and PyTorch

log = logging.getLogger("deeplab_tf")


def read(
    source: str,
    untold: Untold | None = None,
    *,
    backbone_only: bool = False,
    as_told: bool = False,
    flag: str = "tf_initial_checkpoint",
    advice: str = "",
) -> Source:
    """Reads weights of another program.

    Args:
      source: a path, an http(s) address, or the name of a published Keras model.
      untold: what files do not tell about the network.
      backbone_only: whether to leave out all heads.
      as_told: whether what the file itself tells about its network completes `untold`; a training
        has settings of its own.
      flag: the flag that gave `source`, for messages.
      advice: as in `fetch`.
    Raises:
      UserError: if the source is unknown or damaged, or belongs to another network.
    """
    if is_named(source):
        return mapping.sound(imagenet.read(source, untold), source)

    path = fetch(source, flag=flag, advice=advice) if "://" in source else Path(source)
    if "://" not in source:
        _warn_of_other_content(path)

    with _deleted_if_unreadable(path, source):
        if path.name.endswith(_TARS):
            path = _unpacked(path)
        place = _official_at(path, source)
        if not place and not path.is_file():
            raise UserError(f"{source} does not exist; allowed: {KINDS}.")
        content = {} if place else torch_file.load(path)
        arrays = {} if place else ssseg.state_dict(content, str(path))

    if place:
        found = reader.read(place, untold, backbone_only=backbone_only)
        return mapping.sound(found, place)

    told = mmseg_config.Told()
    if as_told and ssseg.has_mmseg_head(arrays):
        told = mmseg_config.read(content)
        untold = (untold or Untold()).completed(told.network)
    if told.obstacle:
        raise UserError(
            f"{path} belongs to a network that cannot be computed here: its config says that "
            f"{told.obstacle}; give weights of mmsegmentation's own DeepLabV3 or DeepLabV3+."
        )
    found = ssseg.read(arrays, str(path), untold, backbone_only=backbone_only)
    return dataclasses.replace(mapping.sound(found, str(path)), told=told)


def is_named(source: str) -> bool:
    """Returns whether a source is the name of a Keras model, not a path."""
    return source.startswith((imagenet.APPLICATIONS, imagenet.KERAS_CV))


@contextlib.contextmanager
def _deleted_if_unreadable(path: Path, source: str) -> Iterator[None]:
    """Deletes a download that is not a file of weights, so that the next call fetches it again."""
    try:
        yield
    except UserError as error:
        if "://" not in source:
            raise
        path.unlink(missing_ok=True)
        raise UserError(f"What {source} sent was deleted: {error}") from None


def _official_at(path: Path, source: str) -> str:
    """Returns the TensorFlow checkpoint (its prefix) or frozen graph at a path, "" if none is.

    Args:
      path: the prefix, one of the checkpoint's files, a .pb file, or the folder of either. A frozen
        graph counts only in a folder without a checkpoint.
      source: what the user gave, for errors.
    Raises:
      UserError: if there is not exactly one checkpoint or graph in the folder, or if the .index of
        the checkpoint is missing.
    """
    if path.is_dir():
        candidates = [file for file in _files(path) if file.suffix == ".index"]
        candidates = candidates or list(filter(_is_first_format, _files(path)))
        candidates = candidates or [file for file in _files(path) if file.suffix == ".pb"]
        if len(candidates) != 1:
            names = [file.stem for file in candidates]
            names = names or [file.name for file in _files(path)[:3]]
            raise UserError(
                f"{source} must hold one TensorFlow checkpoint with its .index file, or else one "
                f"frozen graph (.pb); it holds: "
                f"{', '.join(names) or 'nothing'}."
            )
        path = candidates[0]

    if _is_first_format(path) or (path.suffix == ".pb" and path.is_file()):
        return str(path)
    name = re.sub(r"\.(index|meta|data-\d{5}-of-\d{5})$", "", str(path))
    if Path(f"{name}.index").is_file():
        return name
    if list(Path(name).parent.glob(f"{glob.escape(Path(name).name)}.data-?????-of-?????")):
        raise UserError(f"{source} lacks {name}.index, without which a checkpoint cannot be read.")
    return ""


def _files(folder: Path) -> list[Path]:
    """Returns the files in a folder, without those that macOS adds to archives."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return sorted(path for path in files if not path.name.startswith("._"))


def _is_first_format(path: Path) -> bool:
    """Returns whether a file is a checkpoint of TensorFlow's first format, which is one file."""
    if not path.is_file() or path.suffix == ".index" or path.stat().st_size < len(_TABLE_END):
        return False
    with path.open("rb") as file:
        file.seek(-len(_TABLE_END), os.SEEK_END)
        return file.read() == _TABLE_END


def fetch(url: str, *, flag: str = "tf_initial_checkpoint", advice: str = "") -> Path:
    """Downloads a file to the user's cache, unless it is there; each address has its own folder.

    If the name of the file ends in the first digits of its SHA-256, they are checked.

    Args:
      flag: the flag that gave the address, for messages.
      advice: what else the user can do if this fails; by default, to give the path of the file.
    Raises:
      UserError: if it cannot be downloaded or is not the published file.
    """
    try:
        parts = urllib.parse.urlsplit(url)
    except ValueError:
        raise archives.no_address(url) from None

    digest = _HASH.search(parts.path) if parts.netloc in _HASH_IN_NAME else None
    archive = archives.Archive(url, "sha256", digest[1] if digest else "", folder="")
    if archive.file_name in ("", ".."):
        raise UserError(f"{url} is the address of no file; give one that ends in a file's name.")

    folder = archives.home() / hashlib.sha256(url.encode()).hexdigest()[:16]
    advice = advice or f"fetch the file by hand and give its path: --{flag}=PATH"
    with _locked(folder):
        return archives.fetch(archive, folder, advice=advice)


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Waits until no other process uses the folder, since two downloads would mix their bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _warn_of_other_content(path: Path) -> None:
    """Warns if the name of a file ends in the first digits of a SHA-256 that the file lacks."""
    claimed = _HASH.search(path.name)
    if not claimed or not path.is_file():
        return
    digest = archives.digest_of(path, "sha256")
    if not digest.startswith(claimed[1]):
        log.warning(
            "%s is not the file that was published under this name: its SHA-256 begins with %s.",
            path,
            digest[: len(claimed[1])],
        )


def _unpacked(path: Path) -> Path:
    """Unpacks a tar into the user's cache, unless it is there and the tar has not changed since."""
    if not path.is_file():
        raise UserError(f"{path} does not exist; allowed: {KINDS}.")

    state = path.stat()
    identity = f"{path.resolve()}|{state.st_size}|{state.st_mtime_ns}"
    folder = archives.home() / hashlib.sha256(identity.encode()).hexdigest()[:16] / "unpacked"
    if not folder.is_dir():
        building = folder.with_name("unpacking")
        shutil.rmtree(building, ignore_errors=True)
        unpacking.unpack(path, building)
        os.rename(building, folder)
    return folder
