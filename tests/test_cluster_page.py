"""The commands of "From laptop to cluster" are commands of this package."""

import dataclasses
import json
import os
import re
import shlex

import pytest

from deeplab_tf import config_flags
from deeplab_tf.config import DataConfig, EvalConfig, ModelConfig, TrainConfig
from deeplab_tf.data_service import DataServiceConfig
from deeplab_tf.distribution import _cluster
from tests.test_architecture import ROOT

PAGE = (ROOT / "deeplab_tf/training/README.md").read_text()
TRAIN = (ModelConfig, DataConfig, TrainConfig, EvalConfig)
SETTINGS = {"deeplab_tf.train": TRAIN, "deeplab_tf.data_service": (DataServiceConfig,)}
FIELDS = {
    program: {field.name: field for kind in kinds for field in dataclasses.fields(kind)}
    for program, kinds in SETTINGS.items()
}


def commands():
    """Yields program and flags of each command in the page's indented blocks."""
    blocks = "\n".join(line for line in PAGE.splitlines() if line.startswith("    "))
    text = blocks.replace("\\\n", " ")
    text = re.sub(r"\n\s+--(?=\w+=)", " --", text)  # YAML folds its lines
    for line in re.findall(r"python -m (deeplab_tf\.\w+.*)", text):
        program, *flags = shlex.split(line.rstrip("'& "))
        yield program, flags


@pytest.mark.parametrize(("program", "flags"), [pytest.param(*c, id=c[0]) for c in commands()])
def test_every_command_has_flags_that_exist(program, flags):
    values = {}
    for flag in flags:
        name, _, text = flag.removeprefix("--").partition("=")
        if name == "flagfile":
            config_flags.parse_flagfile(ROOT / text)
        else:
            values[name] = config_flags.value_of(FIELDS[program][name], text)
    for kind in SETTINGS[program]:
        own = {field.name for field in dataclasses.fields(kind)} & set(values)
        kind(**{name: values[name] for name in own})


def test_the_page_has_the_commands_that_are_looked_for():
    found = list(commands())
    assert [program for program, _ in found].count("deeplab_tf.train") == 4
    assert sum("--distribution_strategy=multi_worker_mirrored" in f for _, f in found) == 2
    known = {name for fields in FIELDS.values() for name in fields} | {"flagfile"}
    mentioned = {name for name in re.findall(r"`--(\w+)", PAGE) if "_" in name}
    assert mentioned and mentioned <= known


@pytest.mark.parametrize("index", [0, 1])
def test_the_job_files_describe_their_hosts(monkeypatch, index):
    """TF_CONFIG as the shell of each job makes it."""
    texts = re.findall(r'export TF_CONFIG=("\{.*?\}\}"|\'\{.*?\}\}\')', PAGE, flags=re.DOTALL)
    assert len(texts) == 3  # by hand, Slurm, Kubernetes
    variables = {"SLURM_PROCID": index, "JOB_COMPLETION_INDEX": index}
    variables["HOSTS"] = '"host1:12345","host2:12345"'
    for text in texts:
        value = text[1:-1]
        if text[0] == '"':
            value = value.replace('\\"', '"')
            value = re.sub(r"\$(\w+)", lambda found: str(variables[found[1]]), value)
        json.loads(value)
        monkeypatch.setitem(os.environ, "TF_CONFIG", value)
        assert _cluster() == (2, index if text[0] == '"' else 0)
