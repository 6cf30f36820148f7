"""The rules of the house: imports go downwards, names are documented."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# From top to bottom (0 is the lowest); a module may import those below it only. `config` here
# and `deeplab_tf.data.transforms` importing `deeplab_tf.models.layers` would fail.
LAYERS = [
    ["settings", "seeds", "models.winograd", "models.initializers"],
    [
        "legacy_keras",
        "quiet_start",
        "process_state",
        "train_config",
        "serving_config",
        "checkpoint_choice",
        "files",
        "models.convolution",
        "models.inputs",
        "data.statistics",
    ],
    ["command_line"],
    ["config"],
    ["data.decoding", "data.class_lists"],
    ["data.mask_files"],
    ["data.masks"],
    [
        "data.catalog",
        "training.decoupled",
        "models.layers",
        "config_flags",
        "distribution",
        "data.conversion",
        "data.archives",
        "data.service",
    ],
    [
        "data.records",
        "data.workers",
        "data.split_report",
        "data.transforms",
        "data.photometric",
        "data.encoded",
        "models.resnet",
        "models.aspp",
        "models.heads",
        "models.keras_metrics",
        "models.cross_entropy",
        "models.losses",
        "weights.mapping",
        "weights.torch_file",
        "training.gradients",
        "training.averaging",
        "training.foreign",
        "training.schedules",
        "training.optimizers",
        "training.overview",
        "evaluation.memory",
        "evaluation.metrics",
        "evaluation.report",
    ],
    [
        "data.building",
        "data.folder_pairs",
        "data.pipeline",
        "models.deeplab",
        "evaluation.predictor",
    ],
    [
        "weights.official",
        "weights.ssseg",
        "weights.imagenet",
        "evaluation.serving",
        "evaluation.warmup",
    ],
    [
        "weights.sources",
        "evaluation.evaluator",
        "evaluation.export",
        "evaluation.model_card",
        "evaluation.formats",
        "evaluation.client",
        "training.run_dir",
        "training.run_checks",
        "training.loaded_run",
        "training.callbacks",
        "training.initialization",
        "training.trainer",
    ],
    [
        "train",
        "eval",
        "vis",
        "export_model",
        "convert_model",
        "predict",
        "inspect_data",
        "import_weights",
        "benchmark",
        "data_service",
    ],
]
LAYER = {f"deeplab_tf.{name}": level for level, names in enumerate(LAYERS) for name in names}
SAME_LEVEL = {  # exceptions within a level: who may import whom
    "deeplab_tf.models.losses": {"deeplab_tf.models.cross_entropy"},
    "deeplab_tf.evaluation.report": {"deeplab_tf.evaluation.metrics"},
    "deeplab_tf.evaluation.predictor": {"deeplab_tf.models.deeplab"},
    "deeplab_tf.evaluation.export": {"deeplab_tf.training.run_dir"},
    "deeplab_tf.evaluation.model_card": {
        "deeplab_tf.training.loaded_run",
        "deeplab_tf.training.run_dir",
    },
    "deeplab_tf.evaluation.formats": {"deeplab_tf.evaluation.export"},
    "deeplab_tf.training.optimizers": {"deeplab_tf.training.schedules"},
    "deeplab_tf.training.callbacks": {"deeplab_tf.training.run_dir"},
    "deeplab_tf.training.loaded_run": {"deeplab_tf.training.run_dir"},
    "deeplab_tf.training.run_checks": {"deeplab_tf.training.run_dir"},
    "deeplab_tf.training.initialization": {
        "deeplab_tf.training.loaded_run",
        "deeplab_tf.training.run_dir",
        "deeplab_tf.weights.sources",
    },
    "deeplab_tf.training.trainer": {
        "deeplab_tf.training.initialization",
        "deeplab_tf.training.run_checks",
        "deeplab_tf.training.run_dir",
        "deeplab_tf.training.callbacks",
        "deeplab_tf.evaluation.evaluator",
    },
}


def modules():
    files = [*ROOT.glob("deeplab_tf/**/*.py"), *ROOT.glob("datasets/*.py")]
    return sorted(path for path in files if path.name != "__init__.py")


def module_name(path):
    return ".".join(path.relative_to(ROOT).with_suffix("").parts)


def imported(tree):
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names


@pytest.mark.parametrize("path", modules(), ids=module_name)
def test_house_rules(path):
    source = path.read_text()
    tree = ast.parse(source)
    name = module_name(path)
    assert not {"utils", "common", "misc", "helpers"} & {path.stem}
    assert ast.get_docstring(tree), f"{name} has no docstring"
    methods_of_frameworks = ("call", "build", "get_config", "from_config", "main", "run")
    for node in ast.walk(tree):
        if not isinstance(node, ast.FunctionDef | ast.ClassDef):
            continue
        documented = isinstance(node, ast.ClassDef) or node in tree.body
        if documented and not node.name.startswith("_") and node.name not in methods_of_frameworks:
            assert ast.get_docstring(node), f"{name}.{node.name} has no docstring"


@pytest.mark.parametrize("path", modules(), ids=module_name)
def test_imports_go_downwards(path):
    name, names = module_name(path), imported(ast.parse(path.read_text()))
    entry_point = name.startswith("datasets.") or LAYER[name] == len(LAYERS) - 1
    if not entry_point and name != "deeplab_tf.config_flags":
        assert not any(used.startswith("absl.flags") or used == "absl.flags" for used in names)
    level = len(LAYERS) if name.startswith("datasets.") else LAYER[name]
    for used in names & set(LAYER):
        allowed = LAYER[used] < level or used in SAME_LEVEL.get(name, set())
        assert allowed, f"{name} imports {used}"
    if name.startswith("deeplab_tf.data."):
        assert not any(used.startswith("deeplab_tf.models") for used in names)
    if name.startswith("deeplab_tf.models."):
        assert not any(used.startswith("deeplab_tf.data") for used in names)
