"""Every network of the official zoo is told by the names and shapes of its variables."""

import functools
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest

from deeplab_tf.config import cells
from deeplab_tf.messages import UserError
from deeplab_tf.models.deeplab import build_model
from deeplab_tf.weights import mapping, sources
from deeplab_tf.weights.official import reader, variables
from deeplab_tf.weights.untold import Untold
from tests.conftest import SHARED
from tests.golden import rule
from tests.weights import official_names as names
from tests.weights import writers

RATES = {"atrous_rates": (6, 12, 18)}
GATE = {
    "image_se_uses_qsigmoid": True,
    "image_pooling_crop_size": (769, 769),
    "image_pooling_stride": (4, 5),
}
CELL = cells.PUBLISHED
# Its branches are all 3x3 and take these (core/dense_prediction_cell_branch5_top1_cityscapes.json).
INPUTS = [-1, 0, 1, 0, 0]

aspp3 = functools.partial(names.aspp, rates=3)
lite = functools.partial(names.aspp, filters=128, gate=True, project=False)
lite_decoder = {"filters": 19, "merge": "sum", "logits": True, "classes": 19}


def cell5(channels):
    return names.cell(channels, [3] * 5, INPUTS)


def v3(size, detail):
    return names.network(names.mobilenet_v3(size), context=lite, details=[detail], **lite_decoder)


# What the file has, what the user answers, what the network is; the comments name the zoo's files.
ZOO = {
    # deeplabv3_mnv2_pascal_train_aug and _trainval
    "v2 voc": (
        names.network(names.mobilenet_v2()),
        {},
        {"model_variant": "mobilenet_v2", "depth_multiplier": 1.0, "output_stride": 16},
    ),
    # deeplabv3_mnv2_dm05_pascal_trainaug and _trainval
    "v2 0.5 voc": (
        names.network(names.mobilenet_v2(0.5)),
        {},
        {"model_variant": "mobilenet_v2", "depth_multiplier": 0.5, "divisible_by": 0},
    ),
    # deeplabv3_mnv2_cityscapes_train
    "v2 cityscapes": (names.network(names.mobilenet_v2(), classes=19), {}, {"atrous_rates": ()}),
    # deeplabv3_mnv2_ade20k_train
    "v2 ade20k": (
        names.network(names.mobilenet_v2(), details=[144], classes=151),
        {},
        {"decoder_output_stride": (4,), "decoder_use_separable_conv": True},
    ),
    # deeplab_mnv3_large_cityscapes_trainfine
    "v3 large": (
        v3("large", 120),
        GATE,
        {
            "model_variant": "mobilenet_v3_large_seg",
            "output_stride": 32,
            "decoder_output_stride": (8,),
            "aspp_convs_filters": 128,
            "aspp_with_concat_projection": False,
            "aspp_with_squeeze_and_excitation": True,
            "decoder_use_sum_merge": True,
            "decoder_output_is_logits": True,
            "decoder_filters": 19,
            **GATE,
        },
    ),
    # deeplab_mnv3_small_cityscapes_trainfine
    "v3 small": (
        v3("small", 88),
        GATE,
        {"model_variant": "mobilenet_v3_small_seg", "decoder_output_stride": (8,)},
    ),
    # edgetpu-deeplab
    "edgetpu": (
        names.network(names.mobilenet_edgetpu(), classes=19),
        {"output_stride": 32},
        {"model_variant": "mobilenet_edgetpu", "depth_multiplier": 1.0, "output_stride": 32},
    ),
    # edgetpu-deeplab-slim
    "edgetpu slim": (
        names.network(
            names.mobilenet_edgetpu(0.75),
            context=functools.partial(names.aspp, filters=128),
            classes=19,
        ),
        {},
        {"depth_multiplier": 0.75, "aspp_convs_filters": 128},
    ),
    # deeplabv3_pascal_train_aug and _trainval
    "xception_65 voc": (
        names.network(names.xception(65), context=aspp3, details=[256]),
        RATES,
        {
            "model_variant": "xception_65",
            "decoder_output_stride": (4,),
            "aspp_with_separable_conv": True,
            "image_mean": (127.5, 127.5, 127.5),
            "align_corners": True,
            **RATES,
        },
    ),
    # deeplabv3_cityscapes_train
    "xception_65 cityscapes": (
        names.network(names.xception(65), context=aspp3, details=[256], classes=19),
        {"atrous_rates": (12, 24, 36), "output_stride": 8},
        {"atrous_rates": (12, 24, 36), "output_stride": 8},
    ),
    # deeplabv3_xception_ade20k_train
    "xception_65 ade20k": (
        names.network(names.xception(65), context=aspp3, details=[256], classes=151),
        RATES,
        {"model_variant": "xception_65"},
    ),
    # deeplab_cityscapes_xception71_trainfine and _trainvalfine
    "xception_71 cell": (
        names.network(names.xception(71), context=cell5, details=[256], classes=19),
        {"dense_prediction_cell_json": CELL},
        {"model_variant": "xception_71", "decoder_output_stride": (4,), "atrous_rates": ()},
    ),
    # xception_41, deeplabv3_xception (65) and xception_71; xception_65_coco_pretrained
    "xception_41": (names.xception(41)[0], {}, {"model_variant": "xception_41"}),
    "xception_65": (names.xception(65)[0], {}, {"model_variant": "xception_65"}),
    "xception_71": (names.xception(71)[0], {}, {"model_variant": "xception_71"}),
    # resnet_v1_50 and resnet_v1_101
    "resnet_50": (names.resnet(50, True)[0], {}, {"model_variant": "resnet_v1_50_beta"}),
    "resnet_101": (names.resnet(101, True)[0], {}, {"model_variant": "resnet_v1_101_beta"}),
}
# Networks that are not in the zoo, but that the official flags make.
OTHERS = {
    "resnet_18": (
        names.network(names.resnet(18, False), context=aspp3, details=[64]),
        {"atrous_rates": (3, 6, 9), "multi_grid": (1, 2)},
        {"model_variant": "resnet_v1_18", "decoder_output_stride": (4,), "multi_grid": (1, 2)},
    ),
    "resnet_18 beta": (
        names.network(names.resnet(18, True), details=[256, 128], plain=True),
        {"output_stride": 32},
        {
            "model_variant": "resnet_v1_18_beta",
            "decoder_output_stride": (16, 8),
            "decoder_use_separable_conv": False,
        },
    ),
    "two separable steps": (
        names.network(names.mobilenet_v2(), details=[192, 144], filters=32),
        {},
        {"decoder_output_stride": (8, 4), "decoder_filters": 32, "decoder_reduction_filters": 48},
    ),
    "separable sum of two steps": (
        names.network(names.mobilenet_v2(1.4), details=[272, 208], merge="sum"),
        {"use_bounded_activation": True},
        {
            "depth_multiplier": 1.4,
            "decoder_output_stride": (8, 4),
            "decoder_use_sum_merge": True,
            "decoder_use_separable_conv": True,
            "use_bounded_activation": True,
        },
    ),
    "plain sum": (
        names.network(names.mobilenet_v2(), details=[144], merge="sum", plain=True),
        {},
        {"decoder_use_sum_merge": True, "decoder_use_separable_conv": False},
    ),
    "logits from concatenation": (
        names.network(names.mobilenet_v2(), details=[144], filters=7, logits=True),
        {},
        {"decoder_output_is_logits": True, "decoder_use_sum_merge": False, "decoder_filters": 7},
    ),
    "no pooling, plain": (
        names.network(
            names.mobilenet_v2(),
            context=functools.partial(names.aspp, rates=2, plain=True, pooling=False),
        ),
        {"atrous_rates": (4, 8)},
        {"add_image_level_feature": False, "aspp_with_separable_conv": False},
    ),
    "multiples of 8": (
        names.network(names.mobilenet_v2(0.35, divisor=8)),
        {},
        {"depth_multiplier": 0.35, "divisible_by": 8},
    ),
    "cell of 1x1": (
        names.network(
            names.mobilenet_v2(), context=lambda c: names.cell(c, [1, 1, 3], [-1, -1, 0])
        ),
        {
            "dense_prediction_cell_json": '[{"op": "conv", "kernel": 1, "input": -1}, {"op": '
            '"pyramid_pooling", "grid_size": [2, 2], "input": -1}, {"op": "conv", "kernel": 3, '
            '"rate": [1, 6], "input": 0}]'
        },
        {"model_variant": "mobilenet_v2"},
    ),
}
NETWORKS = ZOO | OTHERS
FAST = ("v2 0.5 voc", "logits from concatenation")


def zeros(shapes):
    """Arrays that take no memory."""
    return {name: np.broadcast_to(np.float32(0), shape) for name, shape in shapes.items()}


GOLDENS = {
    "official_mobilenetv2_os16_c21": "v2 voc",
    "official_mobilenetv3large_c19": "v3 large",
    "official_xception65_os16_dec4_c21": "xception_65 voc",
}


@pytest.mark.parametrize("golden", GOLDENS)
def test_the_names_of_these_tests_are_the_ancestors(golden):
    file = f"{golden}_keys.json"
    paths = [Path(rule.__file__).parent / file, SHARED / "golden" / file]
    path = next(filter(Path.is_file, paths), None)
    if not path:
        pytest.skip(f"{file} is not here")
    assert NETWORKS[GOLDENS[golden]][0] == json.loads(path.read_text())


@pytest.mark.parametrize(
    ("network", "variables", "weights"),
    [  # counted on the official graphs
        ("v2 0.5 voc", 272, 697_013),
        ("v2 cityscapes", 272, 2_113_043),
        ("v3 small", 217, 468_830),
        ("xception_65 cityscapes", 732, 41_054_899),
        ("xception_71 cell", 812, 41_608_523),
        ("xception_65", 660, 37_867_312),
        ("resnet_50", 275, 23_631_808),
    ],
)
def test_the_names_of_these_tests_are_as_many_as_the_ancestors(network, variables, weights):
    shapes = NETWORKS[network][0]
    assert (len(shapes), names.trainable(shapes)) == (variables, weights)


def source_of(monkeypatch, arrays, **answers):
    monkeypatch.setattr(reader, "open_file", lambda path: arrays)
    return reader.read("model.ckpt", Untold(**answers))


@pytest.mark.parametrize("network", NETWORKS)
def test_the_network_follows_from_its_variables(monkeypatch, network):
    shapes, answers, settings = NETWORKS[network]
    source = source_of(monkeypatch, zeros(shapes), **answers)
    found = {name: getattr(source.config, name) for name in settings}
    assert found == settings
    assert sorted(source.origins.values()) == sorted(shapes)  # each has one place
    classes = shapes.get("logits/semantic/biases") or shapes.get("decoder/decoder_conv0/biases")
    last = shapes.get("decoder/decoder_conv0/decoder_conv0_2/biases")
    assert source.num_classes == (last or classes or [0])[0]


@pytest.mark.parametrize(
    "network",
    [pytest.param(n, marks=[] if n in FAST else [pytest.mark.slow]) for n in NETWORKS],
)
def test_every_variable_of_the_model_gets_its_array(monkeypatch, network):
    shapes, answers, _ = NETWORKS[network]
    source = source_of(monkeypatch, zeros(shapes), **answers)
    model = build_model(source.config, num_classes=source.num_classes or 21)
    wanted = {n: tuple(v.shape) for n, v in mapping.variables_of(model).items()}
    if not source.num_classes:
        wanted = {n: shape for n, shape in wanted.items() if n.startswith("backbone/")}
    assert {name: array.shape for name, array in source.arrays.items()} == wanted


@pytest.mark.parametrize(
    ("network", "answers", "said"),
    [
        ("xception_65 voc", {}, "has 3 atrous branches; give as many --atrous_rates .usual are 6"),
        ("xception_65 voc", {"atrous_rates": (6, 12)}, "as many --atrous_rates, not 6,12 .usual"),
        ("v2 voc", RATES, "no atrous branches; leave out --atrous_rates=6,12,18"),
        (
            "v3 large",
            {},
            "gate.*give --image_se_uses_qsigmoid, --image_pooling_crop_size, --image_pooling_s.*"
            "the published MobileNetV3: --image_se_uses_qsigmoid --image_pooling_crop_size=769,7",
        ),
        ("v3 small", {"image_pooling_crop_size": ()}, "give --image_se_uses_qsigmoid .the publ"),
        ("v2 voc", {"image_se_uses_qsigmoid": True}, "leave out --image_se_uses_qsigmoid"),
        (
            "xception_71 cell",
            {},
            "cell of 5 branches .*; give its JSON, .*--dense_pred",
        ),
        (
            "xception_71 cell",
            {"dense_prediction_cell_json": '[{"op": "conv", "kernel": 1, "input": -1}]'},
            "5 branches .kernels 3,3,3,3,3., but --dense_prediction_cell_json has 1 .kernels 1;",
        ),
        ("xception_71 cell", {"dense_prediction_cell_json": CELL, **RATES}, "leave out --atrous"),
        ("v2 voc", {"dense_prediction_cell_json": CELL}, "leave out --dense_prediction_cell_json"),
    ],
)
def test_what_a_file_does_not_tell_is_asked_for_in_one_sentence(
    monkeypatch, network, answers, said
):
    with pytest.raises(UserError, match=f"^model.ckpt .*{said}") as error:
        source_of(monkeypatch, zeros(NETWORKS[network][0]), **answers)
    assert str(error.value).count(". ") == 0


@pytest.mark.parametrize(
    ("extra", "said"),
    [
        ({"decoder/decoder_conv2_pointwise/weights": [1]}, "1 of its weights have no place"),
        ({"MobilenetV2/expanded_conv_17/project/weights": [1]}, "1 of its weights have no place"),
        ({"MobilenetV2/Conv_1/weights": [1]}, "1 of its weights have no place"),
        ({"logits/semantic_1/weights": [1]}, "1 of its weights have no place"),
        ({"MobilenetV2/expanded_conv_3/project/weights": [1, 1, 144, 33]}, "depth multiplier"),
        ({"decoder/feature_projection0/weights": [1, 1, 145, 48]}, "a feature of 145 channels"),
    ],
)
def test_other_networks_are_refused(monkeypatch, extra, said):
    with pytest.raises(UserError, match=said):
        source_of(monkeypatch, zeros(names.network(names.mobilenet_v2()) | extra))


def test_searched_networks_are_refused_by_name(monkeypatch):
    with pytest.raises(UserError, match="its backbone is hnasnet, which architecture search"):
        source_of(monkeypatch, zeros({"hnasnet/stem/weights": [1], "aspp0/weights": [1]}))


def test_a_classifier_of_imagenet_is_left_out(monkeypatch):
    shapes = names.mobilenet_v2(0.5)[0] | names.conv("MobilenetV2/Conv_1", 1, 160, 1280)
    shapes |= names.biased("MobilenetV2/Logits/Conv2d_1c_1x1", 1, 1280, 1001)
    training = {f"{name}/ExponentialMovingAverage": [1] for name in shapes}
    source = source_of(monkeypatch, zeros(shapes | training | {"global_step": []}))
    assert source.num_classes == 0 and len(source.unused) == 7
    assert all(name.startswith("backbone/") for name in source.arrays)


def test_a_network_trained_for_8_bits_is_imported_with_a_warning(monkeypatch, caplog):
    ranges = ("Conv/weights_quant/min", "Conv/act_quant/max/biased", "expanded_conv/act_quant/min")
    extra = {f"MobilenetV2/{name}": [] for name in ranges} | {"aspp0/act_quant/max": []}
    source = source_of(monkeypatch, zeros(names.network(names.mobilenet_v2()) | extra))
    assert source.num_classes == 21 and source.unused == []
    assert "model.ckpt was trained for 8 bits" in caplog.text


def test_a_head_without_its_last_layer_leaves_the_backbone(monkeypatch):
    shapes = names.network(names.xception(65), context=aspp3, details=[256])
    shapes = {name: shape for name, shape in shapes.items() if not name.startswith("logits/")}
    source = source_of(monkeypatch, zeros(shapes))
    assert source.num_classes == 0 and "aspp0/weights" in source.unused


def test_branches_are_joined_in_our_order_where_nothing_projects_them(monkeypatch):
    """There, image pooling comes first; here it comes last, before what the decoder appends."""
    unprojected = functools.partial(names.aspp, filters=8, project=False)
    ours = [*range(8, 16), *range(8)]

    arrays = zeros(names.network(names.mobilenet_v2(), context=unprojected))
    arrays["logits/semantic/weights"] = np.arange(16, dtype="f")[None, None, :, None] * np.ones(21)
    source = source_of(monkeypatch, arrays)
    assert source.arrays["classifier/conv/kernel"][0, 0, :, 3].tolist() == ours
    assert source.converted == {"classifier/conv/kernel"}

    arrays = zeros(names.network(names.mobilenet_v2(), context=unprojected, details=[144]))
    channels = np.arange(16 + 48, dtype="f")
    first = "decoder/decoder_conv0"
    arrays[f"{first}_depthwise/depthwise_weights"] = channels[:, None] * np.ones([3, 3, 1, 1], "f")
    arrays[f"{first}_depthwise/BatchNorm/gamma"] = channels
    arrays[f"{first}_pointwise/weights"] = channels[:, None] * np.ones([1, 1, 1, 256], "f")
    found = source_of(monkeypatch, arrays).arrays
    order = [*ours, *range(16, 64)]
    assert found["decoder/refinement1/depthwise/depthwise_kernel"][1, 2, :, 0].tolist() == order
    assert found["decoder/refinement1/depthwise_norm/gamma"].tolist() == order
    assert found["decoder/refinement1/pointwise/conv/kernel"][0, 0, :, 9].tolist() == order


@pytest.fixture(scope="module")
def small():
    """Random arrays of a narrow MobileNetV2."""
    rng = np.random.default_rng(0)
    shapes = names.network(names.mobilenet_v2(0.25))
    return {name: rng.uniform(0.5, 1, shape).astype("f") for name, shape in shapes.items()}


@pytest.mark.slow
def test_a_frozen_graph_gives_the_same_arrays(small, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    writers.write_tf1_checkpoint(tmp_path / "a/model.ckpt-7", small)
    graph = tmp_path / "b/frozen_inference_graph.pb"
    writers.write_frozen_graph(graph, small)
    (tmp_path / "b/._frozen_inference_graph.pb").write_bytes(b"of macOS")
    with tarfile.open(tmp_path / "graph.tar.gz", "w:gz") as tar:
        tar.add(tmp_path / "b", "model")

    expected = sources.read(str(tmp_path / "a"))
    for path in (graph, tmp_path / "b", tmp_path / "graph.tar.gz"):
        source = sources.read(str(path))
        assert source.config == expected.config and source.unused == []
        assert source.arrays.keys() == expected.arrays.keys()
        for name, array in expected.arrays.items():
            np.testing.assert_array_equal(source.arrays[name], array, err_msg=name)

    # A checkpoint in the same folder says more, so it is read.
    writers.write_tf1_checkpoint(tmp_path / "b/model.ckpt-7", small | {"other": np.ones(1, "f")})
    assert sources.read(str(tmp_path / "b")).unused == ["other"]


def test_graphs_without_their_variables_are_refused_in_one_sentence(small, tmp_path):
    folded = {name: array for name, array in small.items() if "/BatchNorm/" not in name}
    for name, arrays, said in (
        ("folded.pb", folded, "has no batch normalisation, since it was folded into the weights"),
        ("other.pb", {"a/b": np.ones(2, "f")}, "is no frozen graph of official DeepLab"),
    ):
        writers.write_frozen_graph(tmp_path / name, arrays)
        with pytest.raises(UserError, match=said):
            sources.read(str(tmp_path / name))
    (tmp_path / "cut.pb").write_bytes((tmp_path / "folded.pb").read_bytes()[:-100])
    with pytest.raises(UserError, match=r"cut\.pb is not a whole TensorFlow graph"):
        sources.read(str(tmp_path / "cut.pb"))
    with pytest.raises(UserError, match=r"none\.pb does not exist"):
        sources.read(str(tmp_path / "none.pb"))


def test_a_graph_that_claims_more_than_it_holds_is_refused(small, tmp_path):
    path = Path(tmp_path / "a.pb")
    writers.write_frozen_graph(path, small)
    graph = writers.tf.compat.v1.GraphDef.FromString(path.read_bytes())
    for node in graph.node:
        if node.name == "MobilenetV2/Conv/weights":
            tensor = node.attr["value"].tensor
            tensor.ClearField("tensor_content")
            tensor.float_val.append(1.0)  # stands for all values
            tensor.tensor_shape.dim[0].size = 1 << 30
    path.write_bytes(graph.SerializeToString())
    with pytest.raises(UserError, match=r"a\.pb is damaged at 'MobilenetV2/Conv/weights'"):
        variables.FrozenGraph(str(path))
