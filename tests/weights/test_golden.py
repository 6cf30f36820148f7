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

SSSEG = "ssseg_r50_os16_c150"
# By name: what the files do not tell.
OFFICIAL = {
    "official_r50beta_os16_c21": {"atrous_rates": (6, 12, 18)},
    "official_xception65_os16_dec4_c21": {"atrous_rates": (6, 12, 18)},
    "official_mobilenetv2_os16_c21": {},
    "official_mobilenetv3large_c19": {
        "image_se_uses_qsigmoid": True,
        "image_pooling_crop_size": (33, 65),
        "image_pooling_stride": (4, 5),
    },
}
HERE = Path(rule.__file__).parent
PLACES = (HERE, SHARED / "golden")  # some sizes are here, the others where the project keeps them
BOUND = 2e-5  # times the golden logits' standard deviation, as docs/weights.md says


def weights_of(name, layout):
    files = [folder / f"{name}_keys.json" for folder in PLACES]
    file = next(filter(Path.is_file, files), None)
    if not file:
        pytest.skip(f"{name}_keys.json is not here")
    shapes = json.loads(file.read_text())
    return {key: rule.array(key, shape, layout) for key, shape in shapes.items()}


def golden_of(name, size):
    """Reads the arrays of one image size."""
    for folder in PLACES:
        path = folder / f"{name}.npz"
        arrays = np.load(path) if path.is_file() else {}
        if f"logits_low_{size}" in arrays:
            return arrays
    pytest.skip(f"{name} at {size} is not here")


def sizes_of(name):
    """Returns the image sizes that there are logits of, such as 97x129."""
    files = [folder / f"{name}.npz" for folder in PLACES]
    keys = [key for file in files if file.is_file() for key in np.load(file)]
    return sorted({key.split("_")[-1] for key in keys if key.startswith("logits_low_")})


def imported(source, folder, **answers):
    weight_import.main(ImportConfig(source=str(source), output=str(folder), **answers))
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


def images_of(name, size):
    noise = rule.image(f"{name}_{size}", (1, *map(int, size.split("x")), 3))
    return np.round(np.clip(127.5 + 50 * noise, 0, 255)).astype(np.float32)


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(name, marks=pytest.mark.slow if "xception65" in name else ())
        for name in OFFICIAL
    ],
    ids=str,
)
def official(request, tmp_path_factory):
    """The name of a network of official DeepLab, and the model that its checkpoint becomes."""
    name, answers = request.param, OFFICIAL[request.param]
    folder = tmp_path_factory.mktemp(name)
    arrays = weights_of(name, "tf")
    arrays["global_step"] = np.array(30000, np.int64)
    if "logits/semantic/biases" in arrays:
        arrays["logits/semantic/biases/Momentum"] = np.zeros(21, np.float32)
    writers.write_tf1_checkpoint(folder / "tf1/model.ckpt-30000", arrays)
    return name, imported(folder / "tf1/model.ckpt-30000", folder / "run", **answers)


def test_official_from_checkpoint_to_logits(official):
    """At every size that there are logits of, enlarged too."""
    name, model = official
    sizes = sizes_of(name)
    assert sizes
    for size in sizes:
        golden = golden_of(name, size)
        logits = model(images_of(name, size))["logits"]
        assert error_of(logits.numpy(), golden[f"logits_low_{size}"]) < BOUND
        height, width = map(int, size.split("x"))
        enlarged = resize_bilinear(logits, (height, width), align_corners=True).numpy()
        assert error_of(enlarged[:, ::3, ::3], golden[f"logits_{size}"]) < BOUND
