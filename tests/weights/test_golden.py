"""From a file on disk through import_weights to logits, against the logits of the ancestors."""

import json
from pathlib import Path

import numpy as np
import pytest

import deeplab_tf
from deeplab_tf.config.programs import ImportConfig
from deeplab_tf.jobs import weight_import
from deeplab_tf.ops.resize import resize_bilinear
from tests.conftest import SHARED
from tests.golden import rule
from tests.weights import writers

SSSEG, OFFICIAL = "ssseg_r50_os16_c150", "official_r50beta_os16_c21"
HERE = Path(rule.__file__).parent
BOUND = 1e-5  # times the golden logits' standard deviation, as docs/weights.md says


def weights_of(name, layout):
    shapes = json.loads((HERE / f"{name}_keys.json").read_text())
    return {key: rule.array(key, shape, layout) for key, shape in shapes.items()}


def golden_of(name, size):
    """Reads the arrays of one image size: of one here, of others where the project keeps them."""
    for folder in (HERE, SHARED / "golden"):
        path = folder / f"{name}.npz"
        arrays = np.load(path) if path.is_file() else {}
        if f"logits_low_{size}" in arrays:
            return arrays
    pytest.skip(f"{name} at {size} is not here")


def imported(source, folder):
    weight_import.main(ImportConfig(source=str(source), output=str(folder)))
    return deeplab_tf.load_model(folder)


def error_of(ours, golden):
    return np.abs(ours - golden).max() / golden.std()


@pytest.fixture(scope="module")
def ssseg(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ssseg")
    writers.write_pth(folder / "a.pth", {"model": weights_of(SSSEG, "torch")})
    return imported(folder / "a.pth", folder / "run")


@pytest.mark.parametrize("size", [(193, 257), (128, 128)])
def test_ssseg_from_file_to_logits(ssseg, size):
    name = f"{size[0]}x{size[1]}"
    golden = golden_of(SSSEG, name)
    normalized = rule.image(f"{SSSEG}_{name}", (1, 3, *size)).transpose(0, 2, 3, 1)
    images = normalized * np.float32(ssseg.config.image_std) + np.float32(ssseg.config.image_mean)
    outputs = ssseg(images)
    for ours, theirs in (("logits", "logits_low"), ("aux_logits", "aux_logits_low")):
        expected = golden[f"{theirs}_{name}"].transpose(0, 2, 3, 1)
        assert error_of(outputs[ours].numpy(), expected) < BOUND
    np.testing.assert_array_equal(ssseg.infer(images), outputs["logits"])
    enlarged = resize_bilinear(outputs["logits"], size).numpy().argmax(-1)
    assert (enlarged == golden[f"argmax_{name}"]).mean() > 0.9999


@pytest.fixture(scope="module")
def official(tmp_path_factory):
    folder = tmp_path_factory.mktemp("official")
    arrays = weights_of(OFFICIAL, "tf")
    arrays["global_step"] = np.array(30000, np.int64)
    arrays["logits/semantic/biases/Momentum"] = np.zeros(21, np.float32)
    writers.write_tf1_checkpoint(folder / "tf1/model.ckpt-30000", arrays)
    return imported(folder / "tf1/model.ckpt-30000", folder / "run")


@pytest.mark.parametrize("size", [(129, 161), (97, 97)])
def test_official_from_checkpoint_to_logits(official, size):
    name = f"{size[0]}x{size[1]}"
    golden = golden_of(OFFICIAL, name)
    noise = rule.image(f"{OFFICIAL}_{name}", (1, *size, 3))
    images = np.round(np.clip(127.5 + 50 * noise, 0, 255)).astype(np.float32)
    logits = official(images)["logits"]
    assert error_of(logits.numpy(), golden[f"logits_low_{name}"]) < BOUND
    enlarged = resize_bilinear(logits, size, align_corners=True).numpy()[:, ::3, ::3]
    assert error_of(enlarged, golden[f"logits_{name}"]) < BOUND
