"""One weights source, whatever it is, by its path, address or name."""

import os
import re
from pathlib import Path
from typing import Any

from deeplab_tf.config import UserError
from deeplab_tf.data import archives
from deeplab_tf.weights import imagenet, official, ssseg, torch_file
from deeplab_tf.weights.mapping import Source

KINDS = (
    "a .pth or .pt file (SSSegmentation, mmsegmentation, torchvision, openmmlab), an official "
    "TensorFlow 1 checkpoint (model.ckpt-N, its folder or .tar.gz), keras.applications:ResNet50 or "
    "ResNet101, or keras_cv:PRESET"
)
_TARS = (".tar.gz", ".tgz", ".tar")


def read(
    source: str,
    *,
    output_stride: int = 16,
    atrous_rates: tuple[int, ...] = (),
    multi_grid: tuple[int, ...] = (),
) -> Source:
    """Reads weights of another program.

    Args:
      source: a path, an http(s) address, or the name of a published Keras model.
      output_stride, atrous_rates, multi_grid: how the network is dilated, which files do not say.
    Raises:
      UserError: if it is nothing known, is damaged, or its network is another.
    """
    if source.startswith((imagenet.APPLICATIONS, imagenet.KERAS_CV)):
        return imagenet.read(source, output_stride=output_stride)
    path = _download(source) if "://" in source else Path(source)
    if path.name.endswith(_TARS):
        path = _unpacked(path)
    settings: dict[str, Any] = {
        "output_stride": output_stride,
        "atrous_rates": atrous_rates,
        "multi_grid": multi_grid,
    }
    prefix = _checkpoint_at(path)
    if prefix:
        return official.read(prefix, **settings)
    if path.is_file():
        content = torch_file.load(path)
        return ssseg.read(ssseg.state_dict(content, str(path)), str(path), **settings)
    raise UserError(f"{source} does not exist; allowed: {KINDS}.")


def _checkpoint_at(path: Path) -> str:
    """Returns a TensorFlow checkpoint's prefix, given by itself, a file of it or its folder."""
    if path.is_dir():
        found = sorted(path.glob("**/*.index"))
        if len(found) != 1:
            names = ", ".join(file.stem for file in found) or "none"
            raise UserError(f"{path} must hold one TensorFlow checkpoint; it holds: {names}.")
        path = found[0]
    name = re.sub(r"\.(index|meta|data-\d{5}-of-\d{5})$", "", str(path))
    return name if Path(f"{name}.index").is_file() else ""


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "deeplab_tf"


def _download(url: str) -> Path:
    """Fetches a file into the user's cache; openmmlab's names end in the start of their SHA-256."""
    digest = re.search(r"-([0-9a-f]{8,64})\.\w+$", url)
    archive = archives.Archive(url, "sha256", digest[1] if digest else "", folder="")
    return archives.fetch(archive, _cache())


def _unpacked(path: Path) -> Path:
    if not path.is_file():
        raise UserError(f"{path} does not exist; allowed: {KINDS}.")
    folder = path.with_name(f".{path.name}-unpacked")
    if not folder.is_dir():
        building = folder.with_name(folder.name + "-building")
        archives.unpack(path, building)
        os.rename(building, folder)
    return folder
