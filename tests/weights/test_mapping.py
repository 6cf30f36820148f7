"""What can be a weight at all."""

import numpy as np
import pytest

from deeplab_tf.config import ModelConfig
from deeplab_tf.messages import UserError
from deeplab_tf.weights import imagenet, mapping, sources, ssseg
from deeplab_tf.weights.official import reader as official
from tests.weights import writers


def source_of(array, name="backbone/norm/moving_variance"):
    return mapping.Source("a kind", ModelConfig(), 0, {name: array}, {name: "bn.var"})


@pytest.mark.parametrize(
    ("array", "said"),
    [
        (np.float32([1, np.nan]), "holds 1 values that are not finite"),
        (np.float32([-np.inf, np.nan]), "holds 2 values that are not finite"),
        (np.float64([1e39]), "holds 1 values that are not finite"),  # in float32
        (np.arange(3), "holds 3 values of type int64, not weights"),
        (np.array([True]), "holds 1 values of type bool, not weights"),
        (np.array(["x"]), "holds 1 values of type <U1, not weights"),
        (np.zeros((0, 3), "f"), "holds 0 values of type float32, not weights"),
        (np.float32([1, -1e-9]), "holds variances below zero"),
    ],
)
def test_what_is_no_weight_is_refused(array, said):
    with pytest.raises(UserError, match=f"^m.pth cannot be imported: its 'bn.var' {said}"):
        mapping.sound(source_of(array), "m.pth")


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8", ">f4"])
def test_weights_become_float32(dtype):
    values = np.array([-0.5, 0, 65504], dtype)
    (found,) = mapping.sound(source_of(values, "conv/kernel"), "m.pth").arrays.values()
    assert found.dtype == np.float32 and found.tolist() == [-0.5, 0, 65504]


@pytest.mark.parametrize(
    ("reader", "source"),
    [
        (imagenet, "keras.applications:ResNet50"),
        (imagenet, "keras_cv:resnet50_imagenet"),
        (official, "model.ckpt"),
        (ssseg, "m.pth"),
    ],
)
def test_weights_of_every_kind_pass_this_check(tmp_path, monkeypatch, reader, source):
    writers.write_pth(tmp_path / "m.pth", {"x": np.zeros(1, "f")})
    (tmp_path / "model.ckpt.index").touch()
    path = source if ":" in source else str(tmp_path / source)
    monkeypatch.setattr(reader, "read", lambda *_, **__: source_of(np.float32([np.nan])))
    with pytest.raises(UserError, match=f"^{path} cannot be imported: its 'bn.var' holds 1 values"):
        sources.read(path)
