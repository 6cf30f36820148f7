"""Images to predict."""

import numpy as np
import pytest
from PIL import Image

from deeplab_tf.jobs import asked_model
from tests.jobs import thresholds


@pytest.fixture
def photos(tmp_path, monkeypatch):
    """A folder of three images; `b.jpg` is cut, and predict's model is a threshold."""
    monkeypatch.setattr(asked_model, "open_model", thresholds.open_model)
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "photos"
    folder.mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, [3, 20, 30, 3], np.uint8)
    for name, image in zip(("a.png", "b.jpg", "c.tif"), pixels, strict=True):
        Image.fromarray(image).save(folder / name)
    cut = (folder / "b.jpg").read_bytes()
    (folder / "b.jpg").write_bytes(cut[: len(cut) // 2])
    return folder
