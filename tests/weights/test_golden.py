"""From a file on disk through import_weights to logits: those that the real ancestors computed."""

import importlib.util
import json

import numpy as np
import pytest

import deeplab_tf
from deeplab_tf import import_weights
from deeplab_tf.models.layers import resize_bilinear
from tests.conftest import SHARED
from tests.weights import writers

SSSEG, OFFICIAL = "ssseg_r50_os16_c150", "official_r50beta_os16_c21"


@pytest.fixture(scope="module")
def rule():
    path = SHARED / "golden" / "rule.py"
    if not path.is_file():
        pytest.skip(f"{path} is not here")
    spec = importlib.util.spec_from_file_location("rule", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.folder = path.parent
    return module


def weights_of(rule, name, layout):
    shapes = json.loads((rule.folder / f"{name}_keys.json").read_text())
    return {key: rule.array(key, shape, layout) for key, shape in shapes.items()}


def imported(source, folder):
    import_weights.main(import_weights.ImportConfig(source=str(source), output=str(folder)))
    return deeplab_tf.load_model(folder)


def error_of(ours, golden):
    return np.abs(ours - golden).max() / golden.std()


@pytest.fixture(scope="module")
def ssseg(rule, tmp_path_factory):
    folder = tmp_path_factory.mktemp("ssseg")
    writers.write_pth(folder / "a.pth", {"model": weights_of(rule, SSSEG, "torch")})
    return imported(folder / "a.pth", folder / "run")


@pytest.mark.parametrize("size", [(193, 257), (128, 128)])
def test_ssseg_from_file_to_logits(rule, ssseg, size):
    golden = np.load(rule.folder / f"{SSSEG}.npz")
    name = f"{size[0]}x{size[1]}"
    normalized = rule.image(f"{SSSEG}_{name}", (1, 3, *size)).transpose(0, 2, 3, 1)
    images = normalized * np.float32(ssseg.config.image_std) + np.float32(ssseg.config.image_mean)
    outputs = ssseg(images)
    for ours, theirs in (("logits", "logits_low"), ("aux_logits", "aux_logits_low")):
        expected = golden[f"{theirs}_{name}"].transpose(0, 2, 3, 1)
        assert error_of(outputs[ours].numpy(), expected) < 5e-4
    np.testing.assert_array_equal(ssseg.infer(images), outputs["logits"])
    enlarged = resize_bilinear(outputs["logits"], size).numpy().argmax(-1)
    assert (enlarged == golden[f"argmax_{name}"]).mean() > 0.9999


@pytest.fixture(scope="module")
def official(rule, tmp_path_factory):
    folder = tmp_path_factory.mktemp("official")
    arrays = weights_of(rule, OFFICIAL, "tf")
    arrays["global_step"] = np.array(30000, np.int64)
    arrays["logits/semantic/biases/Momentum"] = np.zeros(21, np.float32)
    writers.write_tf1_checkpoint(folder / "tf1/model.ckpt-30000", arrays)
    return imported(folder / "tf1/model.ckpt-30000", folder / "run")


@pytest.mark.parametrize("size", [(129, 161), (97, 97)])
def test_official_from_checkpoint_to_logits(rule, official, size):
    golden = np.load(rule.folder / f"{OFFICIAL}.npz")
    name = f"{size[0]}x{size[1]}"
    noise = rule.image(f"{OFFICIAL}_{name}", (1, *size, 3))
    images = np.round(np.clip(127.5 + 50 * noise, 0, 255)).astype(np.float32)
    logits = official(images)["logits"]
    assert error_of(logits.numpy(), golden[f"logits_low_{name}"]) < 5e-4
    enlarged = resize_bilinear(logits, size, align_corners=True).numpy()[:, ::3, ::3]
    assert error_of(enlarged, golden[f"logits_{name}"]) < 5e-4
