"""The commands and flags that the pages show are those of this package."""

import importlib
import json
import os
import re
import shlex

import pytest

from deeplab_tf.config import flags as config_flags
from deeplab_tf.distribution import _cluster
from tests.test_architecture import ROOT

PAGES = {
    str(path.relative_to(ROOT)): path.read_text()
    for path in [ROOT / "README.md", *ROOT.glob("datasets/*.md"), *ROOT.glob("deeplab_tf/*/*.md")]
}
CLUSTER = PAGES["deeplab_tf/training/README.md"]
OF_OTHER_PROGRAMS = {  # pip, TensorFlow Serving, labelme, Slurm
    "allowed_batch_sizes", "batching_parameters_file", "enable_batching", "model_config_file",
    "rest_api_port",
}  # fmt: skip


def commands(page):
    """Yields program and flags of each command in the page's indented blocks."""
    blocks = "\n".join(line for line in page.splitlines() if line.startswith("    "))
    text = blocks.replace("\\\n", " ")
    text = re.sub(r"\n\s+--(?=\w+=)", " --", text)  # YAML folds its lines
    for line in re.findall(r"python -m ((?:deeplab_tf|datasets)\.\w+.*)", text):
        program, *words = shlex.split(line.rstrip("'& "), comments=True)
        yield program, [word for word in words if word.startswith("--")]  # others stand for more


def settings_of(program, monkeypatch):
    """Returns the settings groups of a program, and the overrides that it takes."""
    given = {}
    monkeypatch.setattr(
        config_flags,
        "run",
        lambda main, settings, *_, overrides=(), **__: given.update(
            settings=settings, overrides=overrides
        ),
    )
    importlib.import_module(program).run()
    return given["settings"], given["overrides"]


ALL = [
    pytest.param(program, flags, id=f"{page}: {program}")
    for page, text in PAGES.items()
    for program, flags in commands(text)
]


@pytest.mark.parametrize(("program", "flags"), ALL)
def test_every_command_is_taken_by_its_program(program, flags, monkeypatch):
    monkeypatch.chdir(ROOT)
    settings, overrides = settings_of(program, monkeypatch)
    parsed = config_flags.parse(flags, settings, overrides=overrides)
    for kind in settings:
        parsed.read(kind)


def test_the_pages_have_the_commands_that_are_looked_for():
    assert len(ALL) == sum(
        len(re.findall(r"^    .*python -m (?:deeplab_tf|datasets)\.", text, re.MULTILINE))
        for text in PAGES.values()
    )
    found = list(commands(CLUSTER))
    assert [program for program, _ in found].count("deeplab_tf.train") == 4
    assert sum("--distribution_strategy=multi_worker_mirrored" in f for _, f in found) == 2


@pytest.mark.parametrize("page", PAGES)
def test_every_flag_that_a_page_names_exists(page, monkeypatch):
    programs = [
        f"{folder.replace('/', '.')}.{path.stem}"
        for folder in ("deeplab_tf", "datasets")
        for path in (ROOT / folder).glob("*.py")
        if "\ndef run() -> None:" in path.read_text()
    ]
    known = {"flagfile", "help"} | OF_OTHER_PROGRAMS
    for program in programs:
        settings, overrides = settings_of(program, monkeypatch)
        known |= set(config_flags.parse([], settings, overrides=overrides).values)
    mentioned = {name for name in re.findall(r"`--(\w+)", PAGES[page]) if "_" in name}
    assert mentioned and mentioned <= known | {f"no{name}" for name in known}


@pytest.mark.parametrize("index", [0, 1])
def test_the_job_files_describe_their_hosts(monkeypatch, index):
    """TF_CONFIG as the shell of each job makes it."""
    texts = re.findall(r'export TF_CONFIG=("\{.*?\}\}"|\'\{.*?\}\}\')', CLUSTER, flags=re.DOTALL)
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
