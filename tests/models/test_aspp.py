import numpy as np
import pytest
import tensorflow as tf

from deeplab_tf.config import ModelConfig
from deeplab_tf.messages import UserError
from deeplab_tf.models.aspp import ASPP
from tests.models.calculations import conv_norm, enlarge, scatter

MAP = np.random.default_rng(0).standard_normal((2, 7, 9, 5)).astype(np.float32)


def built(**settings):
    layer = ASPP(4, **({"rates": ()} | settings))
    layer(MAP)
    scatter(layer)
    return layer


@pytest.mark.parametrize(
    ("gate", "gate_by_hand"),
    [
        ("sigmoid", lambda x: 1 / (1 + np.exp(-x))),
        ("hard_sigmoid", lambda x: np.clip(x + 3, 0, 6) / 6),
    ],
)
def test_a_gate_multiplies_the_only_branch(gate, gate_by_hand):
    layer = built(
        gate=gate,
        projection=False,
        pooling_window=(3, 4),
        pooling_stride=(2, 3),
        align_corners=True,
    )
    windows = np.lib.stride_tricks.sliding_window_view(MAP, (3, 4), axis=(1, 2))
    pooled = windows.mean(axis=(-2, -1))[:, ::2, ::3]
    assert pooled.shape == (2, 3, 2, 5)

    scores = pooled @ layer.gate.kernel.numpy()[0, 0] + layer.gate.bias.numpy()
    expected = conv_norm(MAP, layer.branches[0]) * enlarge(gate_by_hand(scores), 7, 9)
    np.testing.assert_allclose(layer(MAP), expected, rtol=1e-4, atol=1e-5)


def test_a_gate_without_projection_has_no_rates():
    """The joined branches would have more channels than the gate."""
    settings = {"aspp_with_squeeze_and_excitation": True, "aspp_with_concat_projection": False}
    with pytest.raises(UserError, match="atrous_rates=6,12,18 is not possible; allowed: empty"):
        ModelConfig(**settings, atrous_rates=(6, 12, 18))
    assert ModelConfig(**settings).atrous_rates == ()  # of the default network
    ModelConfig(**settings, atrous_rates=(6,), add_image_level_feature=False)  # there is no gate


def test_a_gate_comes_after_the_projection():
    layer = built(gate="sigmoid", rates=(2,))
    scores = MAP.mean(axis=(1, 2), keepdims=True) @ layer.gate.kernel.numpy()[0, 0]
    gate = 1 / (1 + np.exp(-scores - layer.gate.bias.numpy()))
    branches = np.concatenate([branch(MAP) for branch in layer.branches], axis=-1)
    assert branches.shape[-1] == 8
    expected = conv_norm(branches, layer.projection) * gate
    np.testing.assert_allclose(layer(MAP), expected, rtol=1e-4, atol=1e-5)


def test_without_rates_the_1x1_branch_and_image_pooling_are_projected():
    layer = built()
    pooled = conv_norm(MAP.mean(axis=(1, 2), keepdims=True), layer.pooling)
    branches = [conv_norm(MAP, layer.branches[0]), np.broadcast_to(pooled, (2, 7, 9, 4))]
    expected = conv_norm(np.concatenate(branches, axis=-1), layer.projection)
    np.testing.assert_allclose(layer(MAP), expected, rtol=1e-4, atol=1e-5)


def test_without_projection_all_branches_are_returned():
    layer = built(rates=(1, 2), separable=True, projection=False, dropout_rate=0.5)
    result = layer(MAP, training=True, norm_training=False).numpy()  # official: none are dropped
    assert result.shape == (2, 7, 9, 16)
    np.testing.assert_allclose(result[..., :4], conv_norm(MAP, layer.branches[0]), atol=1e-5)
    np.testing.assert_allclose(result[..., 8:12], layer.branches[2](MAP), atol=1e-6)
    pooled = conv_norm(MAP.mean(axis=(1, 2)), layer.pooling)
    np.testing.assert_allclose(result[:, 3, 5, 12:], pooled, atol=1e-5)


def test_bounded_activations_leave_image_pooling_as_it_is():
    layer = built(projection=False, bounded=True)
    result = layer(50 * MAP + 500).numpy()
    assert result[..., :4].max() == 6
    assert result[..., 4:].max() > 6
    most = built(bounded=True)(50 * MAP + 500).numpy().max()
    assert most == 6


def test_training_drops_numbers_of_the_projection():
    layer = built(dropout_rate=0.25)
    plain = layer(MAP).numpy()
    seed = tf.constant([3, 4], tf.int64)
    result = layer(MAP, training=True, norm_training=False, seed=seed).numpy()
    is_dropped = (result == 0) & (plain > 0)
    np.testing.assert_allclose(result[~is_dropped], plain[~is_dropped] / 0.75, rtol=1e-5)
    assert is_dropped.sum() / (plain > 0).sum() == pytest.approx(0.25, abs=0.08)
    np.testing.assert_array_equal(result, layer(MAP, training=True, norm_training=False, seed=seed))


def test_a_map_smaller_than_the_window_is_pooled_whole_at_every_stride():
    layer = built(gate="sigmoid", projection=False, pooling_window=(9, 9), pooling_stride=(4, 5))
    whole = built(gate="sigmoid", projection=False)
    np.testing.assert_allclose(layer(MAP), whole(MAP), atol=1e-6)


@pytest.mark.parametrize(
    "settings",
    [
        {"rates": (1, 2), "separable": True, "bounded": True, "dropout_rate": 0.5},
        {"gate": "hard_sigmoid", "projection": False, "pooling_window": (3, 3)},
    ],
)
def test_settings_and_folded_weights_give_the_same_features(settings):
    layer = built(**settings)
    expected = layer(MAP).numpy()
    other = ASPP.from_config(layer.get_config())
    other(MAP)
    other.set_weights(layer.get_weights())
    np.testing.assert_array_equal(other(MAP), expected)
    assert other.get_config() == layer.get_config()

    for part in layer.submodules:
        if hasattr(part, "fold"):
            part.fold()
    np.testing.assert_allclose(layer(MAP), expected, rtol=1e-3, atol=1e-4)
