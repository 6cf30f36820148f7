"""Every number that any program takes has limits, and is refused beyond them in one sentence."""

import dataclasses
import importlib
import math
import os
from pathlib import Path

import numpy as np
import pytest

from deeplab_tf.config import (
    Config,
    DataConfig,
    EvalConfig,
    ModelConfig,
    TrainConfig,
)
from deeplab_tf.config.programs import ExportConfig
from deeplab_tf.config.setting import (
    checked,
    is_list,
    limits_of,
    part_type,
    require_utf8,
    setting,
    type_of,
)
from deeplab_tf.messages import UserError

ROOT = Path(__file__).parents[2]


def groups():
    """All settings groups of the package and of the builders."""
    for pattern in ("deeplab_tf/*.py", "deeplab_tf/config/*.py", "datasets/*.py"):
        for path in ROOT.glob(pattern):
            if path.stem != "__init__":
                importlib.import_module(".".join(path.relative_to(ROOT).with_suffix("").parts))
    found, new = [], [Config]
    while new:
        kind = new.pop()
        new += [sub for sub in kind.__subclasses__() if sub.__module__.split(".")[0] != "tests"]
        found.append(kind)
    return [kind for kind in found if dataclasses.is_dataclass(kind)]


FIELDS = {
    f"{kind.__name__}.{field.name}": field
    for kind in groups()
    for field in dataclasses.fields(kind)
}
EMPTY = [name for name, field in FIELDS.items() if "" in field.metadata["choices"]]
NUMBERS = {
    name: field
    for name, field in FIELDS.items()
    if not field.metadata["choices"]
    and (part_type(field) if is_list(field) else type_of(field)) in (int, float)
}


def with_number(field, number):
    return (number,) if is_list(field) else number


def test_the_settings_of_all_programs_are_found():
    owners = {name.split(".")[0] for name in FIELDS}
    assert {"TrainConfig", "PredictConfig", "FolderConfig", "ServingConfig"} <= owners
    assert len(NUMBERS) > 60


@pytest.mark.parametrize("name", NUMBERS)
def test_a_number_has_finite_limits_that_hold(name):
    field = NUMBERS[name]
    limits = limits_of(field)
    assert math.isfinite(limits.least) and math.isfinite(limits.most)
    assert checked(field, field.default) == field.default

    kind = part_type(field) if is_list(field) else type_of(field)
    for end, is_excluded in ((limits.least, limits.above), (limits.most, limits.below)):
        if is_excluded:
            with pytest.raises(UserError, match=f"^--{field.name}="):
                checked(field, with_number(field, kind(end)))
        else:
            checked(field, with_number(field, kind(end)))


@pytest.mark.parametrize("name", NUMBERS)
def test_no_number_takes_what_is_none_or_far_too_large(name):
    field = NUMBERS[name]
    numbers = [math.nan, math.inf, -math.inf, 10**20, -(10**20), 10**400, 10**5000, 1e300, -1e300]
    nothing = [] if field.default is None else [None]  # what may be left open
    for given in (*numbers, True, "1", *nothing, [1], b"1", 1j):
        with pytest.raises(UserError, match=f"^(--)?{field.name}=.*is not possible; a") as told:
            checked(field, with_number(field, given))
        assert len(str(told.value)) < 400 and "\n" not in str(told.value)


@pytest.mark.parametrize("name", sorted(FIELDS.keys() - NUMBERS.keys()))
def test_no_other_setting_takes_another_type(name):
    field = FIELDS[name]
    nothing = [] if field.default is None else [None]  # what may be left open
    for value in (*nothing, 2.5, b"a", {}, [None], "a\nb", "a\0", object()):
        with pytest.raises(UserError, match=f"^(--)?{field.name}="):
            checked(field, value)


@pytest.mark.parametrize(
    ("name", "given", "expected"),
    [
        ("TrainConfig.base_learning_rate", 1, 1.0),
        ("TrainConfig.base_learning_rate", np.float64(0.25), 0.25),
        ("TrainConfig.train_batch_size", np.int64(8), 8),
        ("TrainConfig.jit_compile", np.True_, True),
        ("TrainConfig.label_weights", [1, np.float32(2.5)], (1.0, 2.5)),
        ("TrainConfig.label_weights", np.array([1.0, 2.5]), (1.0, 2.5)),
        ("DataConfig.train_crop_size", [np.int32(33), 65], (33, 65)),
        ("TrainConfig.train_logdir", Path("runs/a"), "runs/a"),
    ],
)
def test_values_of_numpy_and_lists_become_those_of_a_flag(name, given, expected):
    if isinstance(given, list):
        given = [part.item() if isinstance(part, np.generic) else part for part in given]
    value = checked(FIELDS[name], given)
    assert value == expected and type(value) is type(expected)
    assert not isinstance(value, tuple) or {*map(type, value)} == {type(expected[0])}


@pytest.mark.parametrize(
    ("kind", "values", "message"),
    [
        (TrainConfig, {"base_learning_rate": "0.1"}, "base_learning_rate='0.1' .*: a number, in P"),
        (TrainConfig, {"train_batch_size": 8.0}, "train_batch_size=8.0 .*: a whole number, in Pyt"),
        (TrainConfig, {"seed": 2**32}, "--seed=4294967296 .*: 0 to 4294967295"),
        (TrainConfig, {"weight_decay": 1e-50}, "--weight_decay=1e-50 .*: 1e-37 or more, since flo"),
        (TrainConfig, {"top_k_percent_pixels": 0}, "--top_k.*=0.0 .*: above 0, to 1"),
        (TrainConfig, {"optimizer": "adam", "adam_epsilon": 0.0}, "--adam_epsilon=0.0 .*: above 0"),
        (ModelConfig, {"image_mean": (0.0, 300.0, 0.0)}, "--image_mean=0.0,300.0,0.0 .*0 to 255"),
        (EvalConfig, {"eval_scales": (1.0, 1e30)}, "--eval_scales=1.0,1e.30 .*0.01 to 16"),
        (DataConfig, {"scale_factor_step_size": 1e-9}, "--scale_factor_step_size=1e-09 .*0, or 1e"),
    ],
)
def test_groups_refuse_what_their_settings_do(kind, values, message):
    with pytest.raises(UserError, match=message):
        kind(**values)


def test_what_files_cannot_hold_is_refused_before_the_work():
    name = os.fsdecode(b"caf\xe9")
    with pytest.raises(UserError, match=r"--model_name=caf.udce9 is not possible; .* UTF-8"):
        ExportConfig(train_logdir="a", export_dir="b", model_name=name)
    with pytest.raises(UserError, match=r"--a=x,caf.udce9 is not"):
        require_utf8(a=("x", name))
    assert ExportConfig(train_logdir="a", export_dir=name, model_name="café").export_dir == name


def test_limits_are_told():
    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Numbers(Config):
        share: float = setting(0.5, "", above=0, below=1)
        count: int = setting(1, "", least=1)
        level: int = setting(0, "", least=-3, most=3)

    for values, allowed in (
        ({"share": 1.0}, "above 0, up to, not including, 1"),
        ({"count": 0}, "1 or more"),
        ({"level": -4}, "-3 to 3"),
        ({"level": 4}, "-3 to 3"),
        ({"count": 2**31}, "2147483647 or less"),
    ):
        with pytest.raises(UserError, match=f"allowed: {allowed}.$"):
            Numbers(**values)
    assert Numbers(share=0.1, count=2, level=-3).level == -3


@pytest.mark.parametrize("name", EMPTY)
def test_an_empty_choice_is_told_in_words(name):
    """And the value that the sentence calls empty is taken."""
    field = FIELDS[name]
    *others, last = [choice for choice in field.metadata["choices"] if choice]
    wanted = f"allowed: {', '.join(['empty', *others])} or {last}.$"
    with pytest.raises(UserError, match=wanted):
        checked(field, "no such value")
    assert checked(field, "") == ""
