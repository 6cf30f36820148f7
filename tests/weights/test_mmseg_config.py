"""What a file of mmsegmentation tells beside its weights."""

import pytest

from deeplab_tf.weights import mmseg_config

# As mmcv prints the config of a DeepLabV3, with other numbers.
CONFIG = """
norm_cfg = dict(type='SyncBN', requires_grad=True)
model = dict(
    type='EncoderDecoder',
    pretrained='open-mmlab://resnet18_v1c',
    backbone=dict(
        type='ResNetV1c',
        depth=18,
        num_stages=4,
        out_indices=(0, 1, 2, 3),
        dilations=(1, 1, 2, 4),
        strides=(1, 2, 1, 1),
        norm_cfg=dict(type='SyncBN', requires_grad=True),
        norm_eval=False,
        style='pytorch',
        contract_dilation=True),
    decode_head=dict(
        type='ASPPHead',
        dilations=(1, 12, 24),
        dropout_ratio=0.1,
        num_classes=3,
        norm_cfg=dict(type='SyncBN', requires_grad=True),
        align_corners=True,
        loss_decode=dict(type='CrossEntropyLoss', use_sigmoid=False, loss_weight=1.0)),
    auxiliary_head=dict(type='FCNHead', num_convs=1, align_corners=True),
    train_cfg=dict(),
    test_cfg=dict(mode='slide', crop_size=(80, 96), stride=(64, 48)))
img_norm_cfg = dict(mean=[100.0, 110.5, 120], std=[50.0, 60.0, 70.0], to_rgb=True)
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(
        type='MultiScaleFlipAug',
        img_scale=(1600, 800),
        flip=False,
        transforms=[dict(type='Resize', keep_ratio=True), dict(type='RandomFlip')])
]
"""


def told(config, **meta):
    return mmseg_config.read({"meta": {"config": config, **meta}, "state_dict": {}})


@pytest.mark.parametrize(
    ("strides", "dilations", "stride"),
    [
        ((1, 2, 1, 1), (1, 1, 2, 4), 8),
        ((1, 2, 2, 1), (1, 1, 1, 2), 16),
        ((1, 2, 2, 2), (1, 1, 1, 1), 32),
    ],
)
def test_strides_and_dilations_give_the_output_stride(strides, dilations, stride):
    config = CONFIG.replace("(1, 1, 2, 4)", str(dilations)).replace("(1, 2, 1, 1)", str(strides))
    assert told(config).network["output_stride"] == stride


def test_a_multi_grid_is_told_and_needs_no_contraction():
    """It gives the rate of each block of the only dilated stage."""
    config = CONFIG.replace("(1, 1, 2, 4)", "(1, 1, 1, 2)").replace("(1, 2, 1, 1)", "(1, 2, 2, 1)")
    config = config.replace("contract_dilation=True", "multi_grid=(1, 2, 4)")
    found = told(config)
    assert found.network["multi_grid"] == (1, 2, 4) and not found.obstacle


@pytest.mark.parametrize(
    ("old", "new", "obstacle"),
    [
        ("contract_dilation=True", "contract_dilation=False", "begin with their full rate"),
        ("contract_dilation=True", "norm_eval=True", "begin with their full rate"),
        (
            "dilations=(1, 1, 2, 4)",
            "dilations=(1, 1, 1, 1)",
            "stages have the strides (1, 2, 1, 1) and",
        ),
        (
            "strides=(1, 2, 1, 1)",
            "strides=(1, 2, 1, 3)",
            "stages have the strides (1, 2, 1, 3) and",
        ),
        ("to_rgb=True", "to_rgb=False", "in the order blue, green, red"),
        ("'SyncBN', requires", "'SyncBN', eps=0.001, requires", "adds 0.001 to variances"),
        ("'SyncBN', requires", "'GN', requires", "layers of the type 'GN'"),
        ("dropout_ratio", "act_cfg=dict(type='GELU'), dropout_ratio", "layers of the type 'GELU'"),
        ("depth=18", "depth=50", ""),
        ("style='pytorch'", "style='caffe'", ""),  # the two differ only in deeper networks
        ("depth=18", "depth=101, style='caffe'", "their stride in the first convolution"),
    ],
)
def test_what_cannot_be_computed_is_named(old, new, obstacle):
    assert old in CONFIG
    config = CONFIG.replace(old, new)
    if "depth=101" in new:
        config = config.replace("style='pytorch',", "", 1)
    found = told(config).obstacle
    assert obstacle in found and bool(found) == bool(obstacle)


@pytest.mark.parametrize(
    "config",
    [
        None,
        7,
        "",
        "model = (",
        "model = " + 1000 * "(" + 1000 * ")",
        "model = " + 30_000 * "-" + "1",
        "model = " + "+".join(["1"] * 50_000),
        "x = '" + 300_000 * "a" + "'",
        "model = __import__('os').system('false')",
        "model = dict(backbone=3, decode_head=[dict(dilations='x')])\nimg_norm_cfg = [1]",
        "model = dict(decode_head=dict(dilations=(1, 'x', -3), align_corners='yes'))",
        "model = dict(**dict(backbone=1), test_cfg=dict(mode='slide', crop_size=5))",
    ],
    ids=range(12),
)
def test_a_config_that_cannot_be_understood_tells_nothing(config):
    assert told(config) == mmseg_config.Told()


@pytest.mark.parametrize(
    ("names", "kept"),
    [
        (("a", "b "), ("a", "b")),
        (["a", "a"], ()),
        (["a", ""], ()),
        (["a", 3], ()),
        ("ab", ()),
        ({"a": 1}, ()),
        (["a", 300 * "b"], ()),
    ],
)
def test_only_names_count_as_names(names, kept):
    assert told("", CLASSES=names).class_names == kept


@pytest.mark.parametrize(
    "palette", [None, [[1, 2, 3]], [[1, 2], [3, 4]], [[1, 2, 3], [4, 5, 256]], "ab", [1, 2]]
)
def test_only_a_palette_of_all_classes_counts(palette):
    assert told("", CLASSES=("a", "b"), PALETTE=palette).colors == ()


@pytest.mark.parametrize("content", [None, [], {}, {"meta": 3}, {"meta": {"dataset_meta": 3}}])
def test_a_file_without_a_config_tells_nothing(content):
    assert mmseg_config.read(content) == mmseg_config.Told()
