"""The command that a message names for a known data set builds that data set."""

import importlib

import pytest

from datasets import build_ade20k_data, build_pascal_context_data
from deeplab_tf.config import flags
from deeplab_tf.data import catalog
from tests import trees

ADE20K = (trees.ade20k, build_ade20k_data.ADE20KConfig, ["--ade20k_root=ADEChallengeData2016"])
CONTEXT = (
    trees.pascal_context,
    build_pascal_context_data.PascalContextConfig,
    ["--voc2010_root=VOCdevkit/VOC2010", "--labels_dir=trainval"],
)


@pytest.mark.parametrize(
    ("name", "tree", "kind", "roots"),
    [
        ("ade20k", *ADE20K),
        ("ade20k_151", *ADE20K),
        ("pascal_context", *CONTEXT),
        ("pascal_context_59", *CONTEXT),
    ],
)
def test_the_named_command_builds_the_set(tmp_path, monkeypatch, name, tree, kind, roots):
    tree(tmp_path)
    monkeypatch.chdir(tmp_path)
    program, *arguments = catalog.load(name, "").build_command.split()[2:]
    settings = flags.parse([*arguments, *roots, "--output_dir=out", "--num_processes=1"], [kind])

    importlib.import_module(program).main(settings.read(kind))
    assert catalog.load("", "out").classes == catalog.load(name, "").classes
    assert catalog.load("", "out").ignore_label == catalog.load(name, "").ignore_label
