import dataclasses
import re

import pytest
import tensorflow as tf

from deeplab_tf.config import DataConfig, Experiment, ModelConfig, TrainConfig
from deeplab_tf.messages import UserError
from deeplab_tf.ops import hard_pixels
from deeplab_tf.training import step_checks


def require(experiment, *, num_classes=21, replicas=1, on_gpus=False):
    step_checks.require_possible(
        experiment, num_classes=num_classes, replicas=replicas, on_gpus=on_gpus
    )


def test_a_step_of_too_many_numbers_is_refused_and_the_ways_out_work():
    large = Experiment(
        data=DataConfig(train_crop_size=(4097, 4097)), train=TrainConfig(train_batch_size=8)
    )
    with pytest.raises(UserError, match="=8 and --train_crop_size=4097,4097 make .* 2147483647;"):
        require(large)
    require(dataclasses.replace(large, data=DataConfig(train_crop_size=(513, 513))))
    require(dataclasses.replace(large, train=TrainConfig(train_batch_size=2)))
    accumulated = TrainConfig(train_batch_size=8, gradient_accumulation_steps=8)
    require(dataclasses.replace(large, train=accumulated))


def test_a_step_of_scales_larger_than_their_range_is_refused_and_the_ways_out_work():
    def data(**values):
        return Experiment(data=DataConfig(min_scale_factor=0.9, max_scale_factor=1.1, **values))

    with pytest.raises(UserError, match="scale_factor_step_size=0.25 is more than .*=0.9 to .*1.1"):
        require(data())
    require(data(scale_factor_step_size=0.0))
    require(data(scale_factor_step_size=0.2))
    require(Experiment(data=DataConfig(min_scale_factor=1.0, max_scale_factor=1.0)))


def test_a_wide_mobilenet_has_larger_maps():
    # At a multiplier of 4 there are 96 numbers for each pixel: 2^31 / 96 = 4729.6^2.
    def experiment(multiplier, side):
        return Experiment(
            model=ModelConfig(model_variant="mobilenet_v2", depth_multiplier=multiplier),
            data=DataConfig(train_crop_size=(side, side)),
            train=TrainConfig(train_batch_size=1),
        )

    require(experiment(4.0, 4729))
    require(experiment(1.0, 8191))  # 32, as in other networks: 2^31 / 32 = 8192^2
    with pytest.raises(UserError, match="--train_batch_size=1 and --train_crop_size=4731,4731"):
        require(experiment(4.0, 4731))


def test_the_map_of_all_classes_counts_where_it_is_held():
    experiment = Experiment(train=TrainConfig(train_batch_size=64))
    require(experiment, num_classes=151)
    require(experiment, num_classes=21, on_gpus=True)
    require(experiment, num_classes=151, on_gpus=True, replicas=2)
    with pytest.raises(UserError, match="--train_batch_size=64"):
        require(experiment, num_classes=151, on_gpus=True)


@pytest.mark.parametrize("crop", [(513, 513), (33, 65), (1, 3)])
@pytest.mark.parametrize("share", [1e-30, 1e-12])
def test_a_share_of_no_pixel_is_refused_with_the_least_that_works(crop, share):
    data = DataConfig(train_crop_size=crop)

    def experiment(share):
        train = TrainConfig(train_batch_size=4, top_k_percent_pixels=share)
        return Experiment(data=data, train=train)

    with pytest.raises(UserError, match=f"{share} leaves none of the .* pixels") as told:
        require(experiment(share), replicas=2)
    least = float(re.search(r"give (\S+) or more", str(told.value))[1])
    require(experiment(least), replicas=2)
    pixels = 2 * crop[0] * crop[1]
    assert pixels * least < 1.1


@pytest.mark.parametrize(
    ("crop", "stride", "is_small"),
    [((5, 5), 16, True), ((16, 513), 16, True), ((17, 17), 16, False), ((17, 17), 32, True)],
)
def test_crops_of_one_cell_are_warned_of(crop, stride, is_small, capsys):
    model = ModelConfig(model_variant="resnet_v1b_18", output_stride=stride)
    experiment = Experiment(model=model, data=DataConfig(train_crop_size=crop))
    step_checks.warn_of_small_crops(experiment)
    told = capsys.readouterr().err
    given = f"Warning: --train_crop_size={crop[0]},{crop[1]} gives the network one cell "
    assert told.startswith(given) and told.count("\n") == 1 if is_small else not told


def test_the_hardest_pixels_are_never_none():
    kept = hard_pixels.hardest(tf.constant([1.0, 3.0, 2.0]), 1e-30)
    assert kept.numpy().tolist() == [3.0, 0.0, 0.0]
