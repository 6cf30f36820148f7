import dataclasses

import numpy as np
import pytest
import tensorflow as tf

from deeplab_tf.config import ModelConfig
from deeplab_tf.evaluation.metrics import MeanIoU
from deeplab_tf.models.deeplab import build_model
from tests.conftest import two_replicas

CONFIG = ModelConfig(
    model_variant="resnet_v1b_18",
    output_stride=8,
    atrous_rates=(1, 2),
    aspp_convs_filters=8,
    auxiliary_filters=4,
)
IMAGES = np.random.default_rng(0).uniform(0, 255, (4, 37, 50, 3)).astype(np.float32)
LABELS = np.random.default_rng(1).integers(0, 3, (4, 37, 50, 1)).astype(np.int32)


@pytest.fixture(scope="module")
def model():
    return build_model(CONFIG, num_classes=3)


@pytest.mark.parametrize("output_stride", [8, 16, 32])
def test_logits_have_one_cell_for_each_output_stride(output_stride):
    config = ModelConfig(
        model_variant="resnet_v1b_18", output_stride=output_stride, aspp_convs_filters=8
    )
    shape = build_model(config, num_classes=3)(IMAGES)["logits"].shape
    assert shape == (4, -(-37 // output_stride), -(-50 // output_stride), 3)


def test_only_a_model_with_an_auxiliary_head_returns_auxiliary_logits(model):
    assert set(model(IMAGES)) == {"logits", "aux_logits"}
    plain = build_model(
        ModelConfig(model_variant="resnet_v1b_18", aspp_convs_filters=8), num_classes=3
    )
    assert set(plain(IMAGES)) == {"logits"}


def test_normalisation_is_inside_the_model():
    shifted = ModelConfig(
        model_variant="resnet_v1b_18",
        aspp_convs_filters=8,
        image_mean=(0.0, 0.0, 0.0),
        image_std=(1.0, 1.0, 1.0),
    )
    usual = ModelConfig(model_variant="resnet_v1b_18", aspp_convs_filters=8)
    first, second = build_model(usual, num_classes=3), build_model(shifted, num_classes=3)
    second.set_weights(first.get_weights())
    normalized = (IMAGES - np.float32(usual.image_mean)) / np.float32(usual.image_std)
    np.testing.assert_allclose(
        first(IMAGES)["logits"], second(normalized)["logits"], rtol=1e-3, atol=1e-6
    )


@pytest.mark.parametrize("form", ["keras", pytest.param("savedmodel", marks=pytest.mark.slow)])
def test_a_saved_model_is_loaded_whole(model, tmp_path, form):
    path = tmp_path / ("model.keras" if form == "keras" else "model")
    model.compile("adam", "sparse_categorical_crossentropy", [MeanIoU(3)], ignore_label=2, seed=7)
    model.save(path)

    loaded = tf.keras.models.load_model(path)
    assert isinstance(loaded.optimizer, tf.keras.optimizers.Adam)
    assert loaded.loss.get_config() == model.loss.get_config()
    assert loaded.get_config() == model.get_config()
    np.testing.assert_allclose(loaded(IMAGES)["logits"], model(IMAGES)["logits"], atol=1e-6)


def test_a_model_saved_before_a_setting_existed_is_loaded(model):
    config = model.get_config()
    del config["initializer"]
    assert type(model).from_config(config).config == CONFIG


@pytest.mark.slow
def test_it_trains_in_a_notebook_without_the_trainer():
    tf.keras.utils.set_random_seed(0)
    model = build_model(CONFIG, num_classes=3)
    labels = (IMAGES[..., :1] > 127).astype(np.int32)
    model.compile(optimizer=tf.keras.optimizers.Adam(1e-3))
    history = model.fit(IMAGES, labels, batch_size=2, epochs=2, verbose=0).history["loss"]
    assert history[-1] < history[0]
    assert model.evaluate(IMAGES, labels, verbose=0) > 0
    assert model.predict(IMAGES, verbose=0)["logits"].shape == (4, 5, 7, 3)


@pytest.mark.slow
def test_a_loss_over_replicas_is_the_mean_over_all_valid_pixels():
    """Replicas with unequal numbers of ignored pixels have the loss and weights of one replica."""
    labels = LABELS.copy()
    labels[:2, 5:] = 255  # the first replica has few valid pixels
    # This initializer makes the first steps small, so that rounding does not grow in three of them.
    config = dataclasses.replace(CONFIG, initializer="he_normal")

    results = []
    for strategy in (
        tf.distribute.OneDeviceStrategy("CPU:0"),
        two_replicas(),
    ):
        tf.keras.utils.set_random_seed(3)
        with strategy.scope():
            model = build_model(config, num_classes=3)
            model.compile(tf.keras.optimizers.SGD(0.01), metrics=[MeanIoU(3)])
        dataset = tf.data.Dataset.from_tensor_slices((IMAGES, labels)).batch(4)
        history = model.fit(dataset, epochs=3, verbose=0).history
        trained = [v.numpy() for layer in model.layers for v in layer.variables]
        results.append((history, trained))

    for name, bound in (("loss", 1e-4), ("mean_iou", 1e-2)):
        np.testing.assert_allclose(results[0][0][name], results[1][0][name], rtol=bound)
    for one, two in zip(results[0][1], results[1][1], strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-3, atol=2e-5)


@pytest.mark.slow
def test_recomputed_stages_change_nothing_but_memory():
    config = ModelConfig(model_variant="resnet_v1c_18", atrous_rates=(1, 2), aspp_convs_filters=8)
    images, labels = (
        tf.random.uniform([2, 64, 48, 3], maxval=255),
        tf.ones([2, 64, 48, 1], tf.int32),
    )
    results = []
    model = build_model(config, num_classes=3)
    weights = model.get_weights()
    for stages in (0, 5):
        tf.keras.utils.set_random_seed(3)
        model.set_weights(weights)
        model.compile(tf.keras.optimizers.SGD(0.1), recompute_stages=stages)
        tf.function(model.train_step)((images, labels))
        results.append({variable.name: variable.numpy() for variable in model.variables})

    assert any("moving_variance" in name for name in results[0])
    for name, kept in results[0].items():
        np.testing.assert_allclose(results[1][name], kept, rtol=1e-4, atol=1e-5, err_msg=name)


def test_frozen_batch_norm_keeps_its_statistics_but_trains_its_scale():
    model = build_model(CONFIG, num_classes=3)
    before = {v.name + str(i): v.numpy() for i, v in enumerate(model.variables)}
    model.compile("sgd", fine_tune_batch_norm=False, run_eagerly=True)  # a step needs no graph
    model.fit(IMAGES, LABELS, batch_size=2, steps_per_epoch=1, verbose=0)

    for index, variable in enumerate(model.variables):
        is_same = np.array_equal(before[variable.name + str(index)], variable.numpy())
        if "moving" in variable.name:
            assert is_same, variable.name
        elif "gamma" in variable.name and "aspp" in variable.name:
            assert not is_same, variable.name


@pytest.mark.slow
def test_moving_averages_are_updated_once_per_part_of_a_batch():
    model = build_model(CONFIG, num_classes=3)
    first = model.backbone.stem[0]
    normalized = (IMAGES - np.float32(CONFIG.image_mean)) / np.float32(CONFIG.image_std)
    means = [first.conv(part).numpy().mean(axis=(0, 1, 2)) for part in np.split(normalized, 2)]

    model.compile(tf.keras.optimizers.SGD(0.0), gradient_accumulation_steps=2)
    model.fit(IMAGES, LABELS, batch_size=4, shuffle=False, verbose=0)
    decay = CONFIG.batch_norm_decay
    expected = decay * (1 - decay) * means[0] + (1 - decay) * means[1]
    np.testing.assert_allclose(first.norm.moving_mean.numpy(), expected, rtol=1e-3, atol=1e-5)


CELL = (
    '[{"op": "conv", "kernel": 3, "rate": [1, 2], "input": -1}, '
    '{"op": "pyramid_pooling", "grid_size": [2, 2], "input": 0}]'
)


@pytest.mark.parametrize(
    "head",
    [
        {
            "atrous_rates": (1, 2),
            "aspp_with_separable_conv": True,
            "decoder_output_stride": (4,),
            "decoder_filters": 8,
            "decoder_reduction_filters": 4,
        },
        {
            "atrous_rates": (),
            "aspp_with_squeeze_and_excitation": True,
            "aspp_with_concat_projection": False,
            "image_pooling_crop_size": (33, 33),
            "image_pooling_stride": (1, 2),
            "decoder_output_stride": (8,),
            "decoder_use_sum_merge": True,
            "decoder_output_is_logits": True,
            "decoder_filters": 3,
        },
        {
            "dense_prediction_cell_json": CELL,
            "decoder_output_stride": (8, 4),
            "decoder_filters": 8,
            "image_pyramid": (0.5, 1.0),
        },
    ],
    ids=["decoder", "gate", "cell"],
)
def test_folded_weights_give_the_same_logits(head):
    config = ModelConfig(model_variant="resnet_v1c_18", aspp_convs_filters=8, **head)
    model = build_model(config, num_classes=3)
    rng = np.random.default_rng(0)
    for variable in model.variables:  # so that batch normalisation changes its inputs
        if variable.shape.rank == 1:
            variable.assign(rng.uniform(0.5, 1.5, variable.shape))
    images = tf.constant(rng.uniform(0, 255, (1, 45, 60, 3)), tf.float32)
    expected = model.infer(images).numpy()

    function = tf.function(model.infer, [tf.TensorSpec([None, None, None, 3])])
    with model.folded() as variables:
        graph = function.get_concrete_function().graph
    folded = function(images).numpy()
    assert np.abs(folded - expected).max() < 1e-4 * expected.std()

    assert {v.ref() for v in graph.variables} == {v.ref() for v in variables}
    assert not any("norm" in variable.name for variable in graph.variables)
    assert "FusedBatchNormV3" not in {op.type for op in graph.get_operations()}
    np.testing.assert_array_equal(model.infer(images), expected)  # outside, as before


def test_convolutions_folded_for_cpus_give_the_same_logits():
    config = ModelConfig(
        model_variant="resnet_v1b_18",
        output_stride=8,
        atrous_rates=(2, 12),
        aspp_convs_filters=256,
        aspp_projection_kernel_size=3,
    )
    model = build_model(config, num_classes=3)
    images = np.random.default_rng(0).uniform(0, 255, (1, 129, 161, 3)).astype(np.float32)
    expected = model.infer(images).numpy()

    with model.folded((129, 161)) as variables:
        folded = model.infer(images).numpy()
        aspp = [len(branch.folded) for branch in [*model.aspp.branches, model.aspp.projection]]
    # Number of arrays: 17, 16 of them matrices, for rate 2 and for the 3x3 projection. The 1x1
    # has a kernel and a bias, and so has rate 12, whose kernel mostly lies outside of 17x21 cells.
    assert aspp == [2, 17, 2, 17]
    assert np.abs(folded - expected).max() < 1e-4 * expected.std()
    assert sum(variable.shape.rank == 2 for variable in variables) % 16 == 0


def test_a_model_can_be_saved_and_loaded_after_folding(tmp_path):
    config = ModelConfig(
        model_variant="mobilenet_v3_small_seg",
        depth_multiplier=0.25,
        aspp_convs_filters=8,
        aspp_with_concat_projection=False,
        aspp_with_squeeze_and_excitation=True,
    )
    model = build_model(config, num_classes=3)
    images = np.random.default_rng(0).uniform(0, 255, (1, 65, 65, 3)).astype(np.float32)
    expected, number = model.infer(images).numpy(), len(model.weights)
    with model.folded():
        model.infer(images)

    assert len(model.weights) == number
    model.save(tmp_path / "m.keras")
    loaded = tf.keras.models.load_model(tmp_path / "m.keras")
    np.testing.assert_array_equal(loaded.infer(images), expected)
