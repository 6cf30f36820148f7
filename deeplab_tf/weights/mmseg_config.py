"""Reads the config and the class names that mmsegmentation saves next to the weights.

Its trainer saves both under the key `meta`: as `config` and `CLASSES` in versions 0.x
(mmseg/apis/train.py), as `cfg` and `dataset_meta` in versions 1.x (mmengine/runner/runner.py). The
config is Python source. It is parsed and never run.
"""

import ast
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, TypeGuard

_LONGEST_CONFIG = 200_000  # characters; a usual DeepLab config is far shorter
_DEEPEST_CONFIG = 50  # brackets inside each other
_LONGEST_NAME = 200  # characters of a class's name
_BATCH_NORM_EPSILON = 1e-5  # PyTorch's, which these networks have here
_USUAL_STRIDES = (1, 2, 2, 2)  # of a ResNet's stages, without dilation


@dataclass(frozen=True)
class Told:
    """What a file tells about its network, as far as it tells it.

    network: settings by the names of `ModelConfig`. evaluation: by the names of `EvalConfig`.
    resizing: shorter and longer side, in pixels, that images are scaled to; (0, 0) if not told.
    class_names: in the order of their numbers. colors: RGB in 0..255, as many, or none.
    obstacle: why the network cannot be computed here; "" if nothing speaks against it.
    """

    network: dict[str, Any] = field(default_factory=dict)
    evaluation: dict[str, Any] = field(default_factory=dict)
    resizing: tuple[int, int] = (0, 0)
    class_names: tuple[str, ...] = ()
    colors: tuple[tuple[int, int, int], ...] = ()
    obstacle: str = ""


def read(content: Any) -> Told:
    """Returns what the content of a .pth file tells; parts that cannot be understood are left out.

    Args:
      content: as `torch_file.load` returns it.
    """
    meta = _dict_at(content, "meta")
    dataset = _dict_at(meta, "dataset_meta")
    names = _class_names(meta.get("CLASSES") or dataset.get("classes"))
    colors = _colors(meta.get("PALETTE") or dataset.get("palette"))

    config = _parsed(meta.get("config") or meta.get("cfg"))
    model = _dict_at(config, "model")
    network, obstacle = _network(model)
    normalisation, other_obstacle = _normalisation(config, model)
    return Told(
        network=network | normalisation,
        evaluation=_evaluation(_dict_at(model, "test_cfg") or _dict_at(config, "test_cfg")),
        resizing=_resizing(config),
        class_names=names,
        colors=colors if len(colors) == len(names) else (),
        obstacle=obstacle or other_obstacle,
    )


def _network(model: dict[str, Any]) -> tuple[dict[str, Any], str]:
    """Returns settings of the network, and what keeps it from being computed here."""
    backbone, head = _dict_at(model, "backbone"), _dict_at(model, "decode_head")
    settings: dict[str, Any] = {}
    if backbone:
        strides = backbone.get("strides", _USUAL_STRIDES)
        dilations = backbone.get("dilations", (1, 1, 1, 1))
        output_stride = _output_stride(strides, dilations)
        settings["output_stride"] = output_stride
        grid = backbone.get("multi_grid")
        has_grid = _are_counts(grid) and bool(grid)
        if has_grid:
            settings["multi_grid"] = grid

        obstacle = _obstacle_in(backbone, output_stride, has_grid=has_grid)
        if obstacle:
            return {}, obstacle

    rates = head.get("dilations", ())
    if _are_counts(rates) and len(rates) > 1:
        settings["atrous_rates"] = rates[1:]  # the first one is the 1x1 convolution's
    if isinstance(head.get("align_corners"), bool):
        settings["align_corners"] = head["align_corners"]
    for name in ("act_cfg", "norm_cfg"):
        obstacle = _obstacle_in_layers(_dict_at(head, name))
        if obstacle:
            return {}, obstacle
    return settings, ""


def _output_stride(strides: Any, dilations: Any) -> int:
    """Returns the output stride of a ResNet; 0 if its stages are not dilated for one."""
    if not _are_counts(strides) or not _are_counts(dilations):
        return 0
    if len(strides) != len(_USUAL_STRIDES) or len(dilations) != len(_USUAL_STRIDES):
        return 0

    stride, rate = 4, 1
    for usual, given, dilation in zip(_USUAL_STRIDES, strides, dilations, strict=True):
        stride *= given
        rate = rate * usual // given
        if given not in (1, usual) or dilation != rate:
            return 0
    return stride


def _obstacle_in(backbone: dict[str, Any], output_stride: int, *, has_grid: bool) -> str:
    """Returns what keeps a ResNet from being computed here, "" if nothing does."""
    if not output_stride:
        return (
            f"its stages have the strides {backbone.get('strides', _USUAL_STRIDES)} and the "
            f"dilations {backbone.get('dilations', (1, 1, 1, 1))}"
        )
    # Without it, the first block of a dilated stage has the stage's rate and not half of it. In
    # the last stage, a multi-grid gives the rate of each block.
    has_other_rates = output_stride == 8 or (output_stride == 16 and not has_grid)
    if has_other_rates and backbone.get("contract_dilation") is not True:
        return "its dilated stages begin with their full rate (contract_dilation=False)"
    if backbone.get("style") == "caffe" and backbone.get("depth") in (50, 101, 152):
        return "its blocks have their stride in the first convolution (style='caffe')"
    return _obstacle_in_layers(_dict_at(backbone, "norm_cfg"))


def _obstacle_in_layers(config: dict[str, Any]) -> str:
    """Returns what keeps layers with an act_cfg or norm_cfg from being computed here."""
    kind, epsilon = config.get("type"), config.get("eps", _BATCH_NORM_EPSILON)
    if isinstance(kind, str) and kind != "ReLU" and "BN" not in kind:
        return f"it has layers of the type {kind[:40]!r}"
    if epsilon != _BATCH_NORM_EPSILON:
        return f"its normalisation adds {epsilon} to variances, and not {_BATCH_NORM_EPSILON}"
    return ""


def _normalisation(config: dict[str, Any], model: dict[str, Any]) -> tuple[dict[str, Any], str]:
    """Returns mean and standard deviation of the images, and what keeps them from being used."""
    settings: dict[str, Any] = {}
    for each in (
        _dict_at(config, "img_norm_cfg"),
        _dict_at(config, "data_preprocessor"),
        _dict_at(model, "data_preprocessor"),
    ):
        if not each:
            continue
        is_rgb = each.get("to_rgb", each.get("bgr_to_rgb"))
        if is_rgb is False:
            return {}, "its images have the channels in the order blue, green, red"
        for ours, theirs in (("image_mean", "mean"), ("image_std", "std")):
            values = each.get(theirs)
            if _are_numbers(values) and len(values) == 3:
                settings[ours] = tuple(map(float, values))
    return settings, ""


def _evaluation(test_config: dict[str, Any]) -> dict[str, Any]:
    """Returns how the network is scored: on whole images or in windows."""
    mode = test_config.get("mode")
    if mode == "whole":
        return {"inference_mode": "whole"}
    crop, stride = test_config.get("crop_size"), test_config.get("stride")
    if mode == "slide" and all(_are_counts(each) and len(each) == 2 for each in (crop, stride)):
        return {"inference_mode": "slide", "eval_crop_size": crop, "eval_crop_stride": stride}
    return {}


def _resizing(config: dict[str, Any]) -> tuple[int, int]:
    """Returns the shorter and the longer side that test images are scaled to; (0, 0) if unknown."""
    steps = [*_dicts_in(config.get("test_pipeline"))]
    keeps_ratio = any(step.get("keep_ratio") is True for step in steps)
    given = [step.get("img_scale", step.get("scale")) for step in steps]
    scales = [scale for scale in given if _are_counts(scale) and len(scale) == 2]
    if not keeps_ratio or len(scales) != 1:
        return 0, 0
    return min(scales[0]), max(scales[0])


def _dicts_in(value: Any) -> Iterator[dict[str, Any]]:
    """Yields the dicts in a value, each before the dicts in it."""
    if isinstance(value, dict):
        yield value
        value = tuple(value.values())
    if isinstance(value, tuple):
        for each in value:
            yield from _dicts_in(each)


def _class_names(names: Any) -> tuple[str, ...]:
    """Returns the names of classes, without spaces around them; none if they are no names."""
    if not isinstance(names, list | tuple):
        return ()
    if not all(isinstance(name, str) and 0 < len(name) <= _LONGEST_NAME for name in names):
        return ()
    stripped = tuple(name.strip() for name in names)
    return stripped if all(stripped) and len({*stripped}) == len(stripped) else ()


def _colors(palette: Any) -> tuple[tuple[int, int, int], ...]:
    """Returns a palette as RGB colours; none if it is not one."""
    if not isinstance(palette, list | tuple):
        return ()
    colors = []
    for color in palette:
        if not isinstance(color, list | tuple) or len(color) != 3:
            return ()
        if not all(type(value) is int and 0 <= value <= 255 for value in color):
            return ()
        red, green, blue = color
        colors.append((red, green, blue))
    return tuple(colors)


def _dict_at(value: Any, key: str) -> dict[str, Any]:
    """Returns the dict under a key of a dict; an empty one if there is none."""
    found = value.get(key) if isinstance(value, dict) else None
    return found if isinstance(found, dict) else {}


def _are_counts(values: Any) -> TypeGuard[tuple[int, ...]]:
    return isinstance(values, tuple) and all(type(value) is int and value > 0 for value in values)


def _are_numbers(values: Any) -> TypeGuard[tuple[float, ...]]:
    return isinstance(values, tuple) and all(type(value) in (int, float) for value in values)


def _parsed(text: Any) -> dict[str, Any]:
    """Returns the values that a config assigns to names; an empty dict if it cannot be parsed."""
    if not isinstance(text, str) or len(text) > _LONGEST_CONFIG:
        return {}
    depth = deepest = 0
    for letter in text:  # a deeper one could exhaust the parser's stack
        depth += (letter in "([{") - (letter in ")]}")
        deepest = max(deepest, depth)
    if deepest > _DEEPEST_CONFIG:
        return {}
    try:
        statements = ast.parse(text).body
        return {
            target.id: _value(statement.value)
            for statement in statements
            if isinstance(statement, ast.Assign)
            for target in statement.targets
            if isinstance(target, ast.Name)
        }
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return {}


def _value(node: ast.expr) -> Any:
    """Returns the value of a literal or of dict(...), lists as tuples; None for everything else."""
    if isinstance(node, ast.Constant):
        return node.value
    if isinstance(node, ast.List | ast.Tuple):
        return tuple(map(_value, node.elts))
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "dict":
        return {each.arg: _value(each.value) for each in node.keywords if each.arg}
    if isinstance(node, ast.Dict):
        return {
            key.value: _value(value)
            for key, value in zip(node.keys, node.values, strict=True)
            if isinstance(key, ast.Constant)
        }
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        operand = _value(node.operand)
        return -operand if type(operand) in (int, float) else None
    return None
