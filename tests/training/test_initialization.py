import dataclasses
import types

import numpy as np
import pytest
import tensorflow as tf

from deeplab_tf.config import ModelConfig
from deeplab_tf.config.programs import ImportConfig
from deeplab_tf.jobs import weight_import
from deeplab_tf.messages import UserError
from deeplab_tf.models.deeplab import build_model
from deeplab_tf.training import initialization
from deeplab_tf.training.trainer import Trainer
from deeplab_tf.weights import mapping
from deeplab_tf.weights.mapping import Source
from tests.weights import writers
from tests.weights.test_ssseg import IMAGES, Oracle, to_ssseg

SETTINGS = {
    "model_variant": "resnet_v1b_18",
    "atrous_rates": (6, 12),
    "aspp_convs_filters": 24,
    "aspp_projection_kernel_size": 3,
    "auxiliary_filters": 16,
}


@pytest.fixture(scope="module")
def pth(tmp_path_factory):
    """A small SSSegmentation file with 7 classes."""
    oracle = Oracle()
    oracle.mmseg(IMAGES, 18, "v1", 16, (6, 12), 7, False)
    path = tmp_path_factory.mktemp("pth") / "s.pth"
    writers.write_pth(path, {"model": to_ssseg(oracle.arrays, 24)})
    return path


def values(model):
    return {name: v.numpy() for name, v in mapping.variables_of(model).items()}


def changed(before, model):
    after = values(model)
    return {n.split("/")[0] for n in before if not np.array_equal(before[n], after[n])}


def test_everything_is_loaded_if_the_classes_agree(pth):
    model = build_model(ModelConfig(**SETTINGS), num_classes=7)
    before = values(model)
    said = initialization.initialize(model, str(pth))
    assert changed(before, model) == {"backbone", "aspp", "classifier", "auxiliary_head"}
    assert f"{len(before)} variables, all." in said


def test_other_classes_replace_only_the_classifiers_and_the_user_is_told(pth):
    model = build_model(ModelConfig(**SETTINGS), num_classes=3)
    before = values(model)
    said = initialization.initialize(model, str(pth))
    assert "new: auxiliary_head, classifier (7 classes there, 3 here)" in said
    after = values(model)
    for name in before:
        is_new = "classifier/" in name
        assert np.array_equal(before[name], after[name]) == is_new, name


@pytest.mark.parametrize(
    ("logits_only", "kept"),
    [(False, {"aspp", "classifier", "auxiliary_head"}), (True, {"classifier"})],
)
def test_last_layers_stay_new_on_demand(pth, logits_only, kept):
    model = build_model(ModelConfig(**SETTINGS), num_classes=7)
    before = values(model)
    said = initialization.initialize(model, str(pth), last_layers=False, logits_only=logits_only)
    assert changed(before, model) == {"backbone", "aspp", "classifier", "auxiliary_head"} - kept
    assert "initialize_last_layer is false" in said


@pytest.mark.parametrize(
    "head", [{"aspp_convs_filters": 8, "auxiliary_filters": 0}, {"atrous_rates": (3, 6, 9)}]
)
def test_another_head_may_stay_new(pth, head):
    model = build_model(ModelConfig(**(SETTINGS | head)), num_classes=3)
    before = values(model)
    initialization.initialize(model, str(pth), last_layers=False)
    assert changed(before, model) == {"backbone"}


def test_a_file_with_only_a_backbone_leaves_the_heads_new(tmp_path):
    oracle = Oracle()
    oracle.backbone(IMAGES, "", 18, "v1", 16)
    writers.write_pth(tmp_path / "r.pth", oracle.arrays)
    model = build_model(ModelConfig(**SETTINGS), num_classes=7)
    before = values(model)
    said = initialization.initialize(model, str(tmp_path / "r.pth"))
    assert changed(before, model) == {"backbone"} and "the file holds only a backbone" in said


@pytest.mark.parametrize(
    ("settings", "needed"),
    [
        ({"aspp_convs_filters": 8}, "--aspp_convs_filters=24"),
        ({"auxiliary_filters": 0}, "--auxiliary_filters=16"),
        ({"image_std": (1.0, 1.0, 1.0)}, "--image_std=58.395,57.12,57.375"),
        ({"align_corners": True}, "--align_corners=false"),
        ({"model_variant": "resnet_v1c_18"}, "--model_variant=resnet_v1b_18"),
    ],
)
def test_weights_of_another_network_are_refused(pth, settings, needed):
    model = build_model(ModelConfig(**(SETTINGS | settings)), num_classes=7)
    before = values(model)
    with pytest.raises(UserError, match=f"belongs to another network; .* need: .*{needed}"):
        initialization.initialize(model, str(pth))
    assert changed(before, model) == set()


def test_multi_grid_means_what_it_means_in_the_file(tmp_path):
    oracle = Oracle()
    oracle.mmseg(IMAGES, 18, "v1", 16, (6, 12), 7, False, grid=(1, 2))
    writers.write_pth(tmp_path / "m.pth", {"state_dict": oracle.arrays})

    def initialize(**settings):
        model = build_model(ModelConfig(**(SETTINGS | settings)), num_classes=7)
        return initialization.initialize(model, str(tmp_path / "m.pth"))

    assert "variables, all." in initialize(multi_grid=(1, 2), multi_grid_replaces_rates=True)
    with pytest.raises(UserError, match="need: --multi_grid_replaces_rates=true"):
        initialize(multi_grid=(1, 2))
    for meaning in (False, True):  # without effect if there is no multi-grid
        assert "variables, all." in initialize(multi_grid_replaces_rates=meaning)


def test_a_failed_start_leaves_no_run_behind(pth, tiny_experiment, tmp_path):
    experiment = dataclasses.replace(
        tiny_experiment,
        train=dataclasses.replace(tiny_experiment.train, tf_initial_checkpoint=str(pth)),
    )
    with pytest.raises(UserError, match="has 2 atrous branches"):
        Trainer(experiment)
    assert not (tmp_path / "run").exists()


def experiment_with(tiny_experiment, tmp_path, checkpoint, **settings):
    model = dataclasses.replace(tiny_experiment.model, **SETTINGS)
    train = dataclasses.replace(
        tiny_experiment.train,
        train_logdir=str(tmp_path / f"run_{len(list(tmp_path.iterdir()))}"),
        tf_initial_checkpoint=str(checkpoint),
        training_number_of_steps=1,
        **settings,
    )
    return dataclasses.replace(tiny_experiment, model=model, train=train)


@pytest.mark.slow
def test_training_starts_from_a_file_an_import_or_a_run(pth, tiny_experiment, tmp_path, capsys):
    """With a learning rate of 0, the weights after a step are still the initial ones."""
    imported = tmp_path / "imported"
    weight_import.main(ImportConfig(source=str(pth), output=str(imported), atrous_rates=(6, 12)))
    expected = build_model(ModelConfig(**SETTINGS), num_classes=7)
    initialization.initialize(expected, str(pth))
    still = {"base_learning_rate": 0.0, "weight_decay": 0.0}
    first = experiment_with(tiny_experiment, tmp_path, pth, **still)
    Trainer(first).run()
    run = first.train.train_logdir
    trainer = Trainer(experiment_with(tiny_experiment, tmp_path, imported, **still))
    trainer.run()
    for variable in trainer.model.trainable_variables:
        name = variable.name.split(":")[0]
        np.testing.assert_array_equal(variable, mapping.variables_of(expected)[name])
    for source in (run, f"{run}/model.ckpt-1", imported / "model.ckpt-0"):
        model = build_model(ModelConfig(**SETTINGS), num_classes=7)
        assert "(a run): " in initialization.initialize(model, str(source))
        for variable in model.trainable_variables:
            name = variable.name.split(":")[0]
            np.testing.assert_array_equal(variable, mapping.variables_of(expected)[name])
    assert capsys.readouterr().out.count("Initialised from") == 2
    Trainer(first).run()  # a resumed run does not load them again
    assert "Initialised" not in capsys.readouterr().out


LOGITS = {
    "model_variant": "resnet_v1b_18",
    "atrous_rates": (),
    "aspp_convs_filters": 8,
    "decoder_output_stride": (8, 4),
    "decoder_output_is_logits": True,
}


@pytest.mark.parametrize(
    ("classes", "options", "kept"),
    [
        (5, {}, set()),
        (3, {}, {"decoder", "decoder_1"}),  # their filters are the number of classes
        (5, {"last_layers": False, "logits_only": True}, {"decoder", "decoder_1"}),
        (5, {"last_layers": False}, {"aspp", "decoder", "decoder_1"}),
    ],
)
def test_a_decoder_of_logits_stays_new_where_a_classifier_would(
    monkeypatch, classes, options, kept
):
    theirs, model = (
        build_model(ModelConfig(**LOGITS, decoder_filters=number), num_classes=number)
        for number in (5, classes)
    )
    source = Source("a run", theirs.config, 5, values(theirs), {})
    monkeypatch.setattr(initialization, "_read_run", lambda _: (source, ""))

    before = values(model)
    said = initialization.initialize(model, "run", **options)
    assert changed(before, model) == {"backbone", "aspp", "decoder", "decoder_1"} - kept
    assert all(name in said.split("new: ")[-1] for name in kept)


def test_a_decoder_of_other_steps_is_another_network(monkeypatch):
    theirs = build_model(ModelConfig(**LOGITS, decoder_filters=3), num_classes=3)
    source = Source("a run", theirs.config, 3, values(theirs), {})
    monkeypatch.setattr(initialization, "_read_run", lambda _: (source, ""))
    settings = LOGITS | {"decoder_filters": 3}
    for strides in ((4,), ()):
        config = ModelConfig(**(settings | {"decoder_output_stride": strides}))
        with pytest.raises(UserError, match="need: .*--decoder_output_stride=8,4"):
            initialization.initialize(build_model(config, num_classes=3), "run")


def one_stem(channels):
    """The variables of a stem for images of so many channels, and of the layer after it."""
    named = {"backbone/conv/kernel": [1, 1, channels, 2], "backbone/next/kernel": [1, 1, 3, 3]}
    variables = [tf.Variable(tf.zeros(shape), name=name) for name, shape in named.items()]
    return types.SimpleNamespace(variables=variables)


@pytest.mark.parametrize(
    "channels, expected",
    [
        (1, [[9, 90]]),  # 1 + 2 + 6 and 10 + 20 + 60
        (2, [[4.5, 45]] * 2),
        (3, [[1, 10], [2, 20], [6, 60]]),
        (5, [[1, 10], [2, 20], [6, 60], [3, 30], [3, 30]]),
    ],
)
def test_a_stem_for_rgb_is_fitted_to_other_channels(channels, expected):
    kernel = np.array([[1, 10], [2, 20], [6, 60]], np.float32).reshape(1, 1, 3, 2)
    arrays = {"backbone/conv/kernel": kernel, "backbone/next/kernel": np.ones([1, 1, 3, 3], "f")}
    fitted, name = mapping.with_fitted_stem(one_stem(channels), arrays)
    assert name == ("" if channels == 3 else "backbone/conv/kernel")
    assert fitted["backbone/conv/kernel"][0, 0].tolist() == expected
    assert fitted["backbone/next/kernel"] is arrays["backbone/next/kernel"]


@pytest.mark.parametrize(
    "channels, said",
    [
        (
            4,
            "In backbone/stem1/conv/kernel, the kernel for channel 4 is the mean of its kernels "
            "for RGB.",
        ),
        (6, "the kernel for each of channels 4 to 6 is the mean of its kernels for RGB."),
        (1, "For 1 channel, backbone/stem1/conv/kernel is the sum of its kernels for RGB."),
    ],
)
def test_weights_for_rgb_start_a_network_of_other_channels(pth, channels, said):
    """With further channels at their means, or a grey image in one, the scores are RGB's."""
    rgb = build_model(ModelConfig(**SETTINGS), num_classes=7)
    initialization.initialize(rgb, str(pth))
    config = ModelConfig(**SETTINGS).with_channels(channels)
    model = build_model(config, num_classes=7)
    text = initialization.initialize(model, str(pth))
    assert said in text and "variables, all." in text

    # In the units of the normalised images, since one channel has a mean of its own.
    def raw(normalized, settings):
        return normalized * np.float32(settings.image_std) + np.float32(settings.image_mean)

    normalized = np.random.default_rng(0).normal(size=[1, 65, 49, 3]).astype(np.float32)
    if channels == 1:
        normalized[:] = normalized[..., :1]
    padding = np.zeros([1, 65, 49, max(channels - 3, 0)], np.float32)
    others = np.concatenate([normalized[..., :channels], padding], axis=-1)
    np.testing.assert_allclose(
        model(raw(others, config))["logits"],
        rgb(raw(normalized, rgb.config))["logits"],
        atol=1e-3,
    )


def test_weights_for_other_channels_do_not_start_a_network_for_rgb(tmp_path):
    config = ModelConfig(model_variant="resnet_v1b_18", atrous_rates=(1,))
    model = build_model(config, num_classes=7)
    source = Source("a run", config.with_channels(4), 7, {}, {})
    with (
        pytest.MonkeyPatch.context() as patch,
        pytest.raises(UserError, match="for images of 4 channels, but the records' images have 3"),
    ):
        patch.setattr(initialization, "_read_run", lambda _: (source, ""))
        initialization.initialize(model, "runs/nir")


def test_weights_of_another_mean_need_it_for_other_channels_too(pth):
    settings = SETTINGS | {"image_mean": (1.0, 2.0, 3.0, 4.0)}
    model = build_model(ModelConfig(**settings), num_classes=7)
    with pytest.raises(UserError, match="need: --image_mean=123.675,116.28,103.53,4.0;"):
        initialization.initialize(model, str(pth))

    # What it names is a way out.
    settings["image_mean"] = (123.675, 116.28, 103.53, 4.0)
    initialization.initialize(build_model(ModelConfig(**settings), num_classes=7), str(pth))
