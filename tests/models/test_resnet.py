import numpy as np
import pytest
import tensorflow as tf

from deeplab_tf.config.backbones import BACKBONES
from deeplab_tf.models.backbones.resnet import STEMS, ResNet, stage_plans

# Number of learned parameters without the classifier. v1: torchvision's published counts, minus the
# last layer (11,689,512 - 513,000; 21,797,672 - 513,000; 25,557,032 - 2,049,000;
# 44,549,160 - 2,049,000; 60,192,808 - 2,049,000). v1c: its stem has 864 + 64 + 9,216 + 64 + 18,432
# + 128 = 28,768 instead of 9,408 + 128 = 9,536, so 19,232 more. The counts of 50 and 101 are also
# in docs/ancestors.md, SSSegmentation, Network.
PARAMETERS = {
    ("v1", 18): 11_176_512,
    ("v1", 34): 21_284_672,
    ("v1", 50): 23_508_032,
    ("v1", 101): 42_500_160,
    ("v1", 152): 58_143_808,
    ("v1c", 18): 11_195_744,
    ("v1c", 34): 21_303_904,
    ("v1c", 50): 23_527_264,
    ("v1c", 101): 42_519_392,
    ("v1c", 152): 58_163_040,
    # beta: 103,296 more in the stem, and 128 channels into the first block: 64 * 64 + 64 * 256.
    ("beta", 50): 23_508_032 + 103_296 + 20_480,
    ("beta", 101): 42_500_160 + 103_296 + 20_480,
    # narrow_beta: a stem of 464 + 2,336 + 4,672 = 7,472 instead of 9,536; 32 channels less into the
    # first 3x3, 9 * 32 * 64; and a shortcut of 32 * 64 + 128, since 32 channels become 64.
    ("narrow_beta", 18): 11_176_512 + 7_472 - 9_536 - 18_432 + 2_176,
}


def test_every_backbone_has_a_parameter_count():
    variants = [variant.layer for variant in BACKBONES.values() if variant.family == "resnet"]
    assert set(PARAMETERS) == {(layer["stem"], layer["depth"]) for layer in variants}
    assert {stem for stem, _ in PARAMETERS} == set(STEMS)


@pytest.mark.parametrize(
    ("stem", "depth"),
    [
        pytest.param(
            stem, depth, marks=[pytest.mark.slow] * (depth > (50 if stem == "beta" else 34))
        )
        for stem, depth in PARAMETERS
    ],
)
def test_parameters_equal_the_published_count(stem, depth):
    model = ResNet(depth, stem=stem)
    tf.function(model).get_concrete_function(tf.TensorSpec([1, 33, 33, 3]))
    assert sum(np.prod(v.shape) for v in model.trainable_variables) == PARAMETERS[stem, depth]


@pytest.mark.parametrize(
    ("output_stride", "multi_grid", "stage3", "stage4"),
    [  # (stride, rate) of the blocks: docs/ancestors.md, SSSegmentation, Network
        (32, (), [(2, 1), (1, 1), (1, 1)], [(2, 1), (1, 1), (1, 1)]),
        (16, (), [(2, 1), (1, 1), (1, 1)], [(1, 1), (1, 2), (1, 2)]),
        (8, (), [(1, 1), (1, 2), (1, 2)], [(1, 2), (1, 4), (1, 4)]),
        # Chen et al. 2017, sec. 3.2: rates 2 * (1, 2, 4) at output stride 16
        (16, (1, 2, 4), [(2, 1), (1, 1), (1, 1)], [(1, 2), (1, 4), (1, 8)]),
    ],
)
def test_stages_past_the_output_stride_are_dilated(output_stride, multi_grid, stage3, stage4):
    plans = stage_plans((3, 3, 3, 3), output_stride, multi_grid)
    assert plans[0] == [(1, 1)] * 3 and plans[1] == [(2, 1), (1, 1), (1, 1)]
    assert plans[2:] == [stage3, stage4]


V1C = {"depth": 50, "stem": "v1c"}
GOOGLES_18 = {
    "depth": 18,
    "stem": "narrow_beta",
    "stride_placement": "last_3x3",
    "stem_padding": "same_pool",
}


@pytest.mark.parametrize(
    ("network", "size"),
    [
        pytest.param(V1C, (64, 64), marks=pytest.mark.slow),
        (V1C, (65, 97)),
        (GOOGLES_18, (65, 97)),
    ],
)
def test_a_finer_output_stride_computes_the_same_features_more_densely(network, size):
    """The identity that atrous convolution rests on (Chen et al. 2017, sec. 3.1)."""
    images = np.random.default_rng(0).standard_normal([1, *size, 3]).astype(np.float32)
    coarse, *finer = [ResNet(**network, output_stride=stride) for stride in (32, 16, 8)]
    expected = coarse(images)["stage4"].numpy()
    for model, step in zip(finer, (2, 4), strict=True):
        model.build(images.shape)
        model(images)
        model.set_weights(coarse.get_weights())
        dense = model(images)["stage4"].numpy()
        error = np.abs(dense[:, ::step, ::step] - expected).max()
        assert error < 1e-4 * expected.std()
