import numpy as np
import pytest
import tensorflow as tf

from deeplab_tf.config import ModelConfig
from deeplab_tf.messages import UserError
from deeplab_tf.models import heads
from deeplab_tf.models.deeplab import build_model
from deeplab_tf.models.heads import Decoder
from deeplab_tf.startup.process_state import keras_settings
from tests.models.calculations import conv_bias, conv_norm, enlarge, scatter

CONTEXT = np.random.default_rng(0).standard_normal((2, 3, 4, 6)).astype(np.float32)
DETAIL = np.random.default_rng(1).standard_normal((2, 9, 13, 5)).astype(np.float32)
CELL = '[{"op": "conv", "kernel": 3, "rate": [1, 2], "input": -1}]'


def built(filters=4, **settings):
    decoder = Decoder(filters, align_corners=True, **settings)
    decoder(CONTEXT, detail=DETAIL)
    scatter(decoder)
    return decoder


def test_a_sum_adds_the_reduced_detail_to_the_refined_context():
    decoder = built(sum_merge=True, separable=False, reduction_filters=3)
    (refinement,) = decoder.refinement
    refined = refinement(enlarge(CONTEXT, 9, 13).astype(np.float32)).numpy()
    expected = refined + conv_norm(DETAIL, decoder.reduction)
    np.testing.assert_allclose(decoder(CONTEXT, detail=DETAIL), expected, rtol=1e-4, atol=1e-5)
    assert refinement.conv.kernel.shape == (3, 3, 6, 4)
    assert decoder.reduction.conv.kernel.shape == (1, 1, 5, 4)  # reduction_filters has no effect


def test_the_logits_of_a_sum_are_two_1x1_convolutions_with_bias():
    decoder = built(sum_merge=True, output_is_logits=True, bounded=True)
    context = conv_bias(enlarge(CONTEXT, 9, 13), decoder.refinement[0])
    expected = context + conv_bias(DETAIL, decoder.reduction)
    assert expected.min() < 0  # there is no activation
    np.testing.assert_allclose(decoder(CONTEXT, detail=DETAIL), expected, rtol=1e-4, atol=1e-5)
    assert decoder.refinement[0].kernel.shape == (1, 1, 6, 4)
    assert len(decoder.trainable_variables) == len(decoder.variables) == 4


def test_the_logits_of_a_concatenation_have_two_3x3_convolutions_with_bias():
    decoder = built(output_is_logits=True, reduction_filters=3)
    joined = [enlarge(CONTEXT, 9, 13), conv_bias(DETAIL, decoder.reduction)]
    expected = np.concatenate(joined, axis=-1)
    for conv in decoder.refinement:
        expected = conv_bias(expected, conv)
    np.testing.assert_allclose(decoder(CONTEXT, detail=DETAIL), expected, rtol=1e-4, atol=1e-4)
    assert [conv.kernel.shape[:3] for conv in decoder.refinement] == [(3, 3, 9), (3, 3, 4)]


def test_bounded_activations_are_those_of_all_convolutions():
    decoder = built(sum_merge=True, bounded=True)
    result = decoder(100 * np.ones_like(CONTEXT), detail=100 * np.abs(DETAIL)).numpy()
    assert result.max() <= 12  # of two summands
    free = built(sum_merge=True)
    assert free(100 * np.ones_like(CONTEXT), detail=100 * np.abs(DETAIL)).numpy().max() > 12


@pytest.mark.parametrize("sum_merge", [False, True])
@pytest.mark.parametrize("output_is_logits", [False, True])
def test_settings_and_folded_weights_give_the_same_features(sum_merge, output_is_logits):
    decoder = built(sum_merge=sum_merge, output_is_logits=output_is_logits)
    expected = decoder(CONTEXT, detail=DETAIL).numpy()
    other = Decoder.from_config(decoder.get_config())
    other(CONTEXT, detail=DETAIL)
    other.set_weights(decoder.get_weights())
    np.testing.assert_array_equal(other(CONTEXT, detail=DETAIL), expected)

    for part in decoder.submodules:
        if hasattr(part, "fold"):
            part.fold()
    folded = decoder(CONTEXT, detail=DETAIL)
    np.testing.assert_allclose(folded, expected, rtol=1e-3, atol=1e-4)


def test_logits_are_float32_in_half_precision():
    with keras_settings("mixed_bfloat16"):
        logits, features = Decoder(4, output_is_logits=True), Decoder(4)
        context, detail = (tf.cast(values, tf.bfloat16) for values in (CONTEXT, DETAIL))
        assert logits(context, detail=detail).dtype == tf.float32
        assert features(context, detail=detail).dtype == tf.bfloat16


def names_of(**settings):
    config = ModelConfig(
        model_variant="resnet_v1b_18", aspp_convs_filters=8, auxiliary_filters=4, **settings
    )
    model = build_model(config, num_classes=3)
    return {variable.name for variable in model.variables if "/" in variable.name}


def test_last_layers_are_all_but_the_backbone_and_classifiers_those_of_the_classes():
    settings = {"decoder_output_stride": (8, 4), "decoder_filters": 3}
    plain = names_of(dense_prediction_cell_json=CELL, **settings)
    assert {name.split("/")[0] for name in plain} == {
        *("backbone", "cell", "decoder", "decoder_1", "classifier", "auxiliary_head")
    }
    every = heads.last_layers(logits_only=False, decoder_output_is_logits=False)
    of_backbone = {name for name in plain if not name.startswith(every)}
    assert {name.split("/")[0] for name in of_backbone} == {"backbone"}

    logits = names_of(atrous_rates=(1,), decoder_output_is_logits=True, **settings)
    only = heads.last_layers(logits_only=True, decoder_output_is_logits=True)
    found = {name for name in logits if name.startswith(only)}
    assert {name.split("/")[0] for name in found} == {"decoder", "decoder_1", "auxiliary_head"}
    assert {"decoder/refinement2/kernel:0", "decoder_1/reduction/bias:0"} <= found
    assert not any(name.startswith("classifier/") for name in logits)


def test_a_decoder_of_logits_needs_as_many_filters_as_classes():
    config = ModelConfig(
        model_variant="resnet_v1b_18", decoder_output_stride=(8,), decoder_output_is_logits=True
    )
    with pytest.raises(UserError, match=r"=256 is not possible .* 5 classes; give .*filters=5,"):
        build_model(config, num_classes=5)


def test_each_step_of_a_decoder_takes_the_step_before_it():
    config = ModelConfig(
        model_variant="resnet_v1b_18",
        aspp_convs_filters=8,
        decoder_output_stride=(8, 4),
        decoder_filters=8,
        align_corners=True,
    )
    model = build_model(config, num_classes=3)
    images = np.random.default_rng(0).uniform(0, 255, (1, 49, 65, 3)).astype(np.float32)
    normalized = (images - np.float32(config.image_mean)) / np.float32(config.image_std)

    features = model.backbone(normalized)
    assert features["stage2"].shape[1:3] == (7, 9) and features["stage1"].shape[1:3] == (13, 17)
    first = model.decoder(model.aspp(features["stage4"]), detail=features["stage2"])
    second = model.later_decoders[0](first, detail=features["stage1"])
    expected = model.classifier(second)
    assert expected.shape == (1, 13, 17, 3)
    np.testing.assert_allclose(model(images)["logits"], expected, atol=1e-5)
