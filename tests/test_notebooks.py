"""The notebooks: clean, with commands and links that exist, and cells that run in their order."""

import ast
import json
import os
import re
import subprocess
import sys

import pytest
from PIL import Image

from datasets import build_shapes_data
from deeplab_tf import __version__
from deeplab_tf.config import flags as config_flags
from deeplab_tf.config.programs import ImportConfig
from deeplab_tf.jobs import weight_import
from tests.runs.test_published import write_ssseg
from tests.test_architecture import ROOT
from tests.test_pages import A_COMMAND, INSTALLED, PAGES, anchors, settings_of

PATHS = sorted(ROOT.glob("docs/notebooks/*.ipynb"))
# A command, with the lines that it goes on in.
SHELL = re.compile(r"^!((?:.*\\\n)*.*)$", re.MULTILINE)


def cells(path, kind):
    return [cell for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == kind]


def source(cell):
    return "".join(cell["source"])


def has_tag(cell, tag):
    return tag in cell["metadata"].get("tags", ())


def test_both_are_there():
    assert [path.stem for path in PATHS] == ["own_data", "pretrained"]


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_a_notebook_installs_this_version(path):
    (install,) = (source(cell) for cell in cells(path, "code") if has_tag(cell, "install"))
    assert re.findall(r"deeplab_tf-(.*?)-py3", install) == [__version__]


def test_own_data_is_as_long_as_it_says():
    code = cells(PATHS[0], "code")
    text = source(cells(PATHS[0], "markdown")[0])
    (steps,) = re.findall(r"ten cells: ([^.]*)\.", text)
    assert len([cell for cell in code if not has_tag(cell, "install")]) == 10
    assert len(steps.split(", ")) == 10


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_a_notebook_is_small_and_without_outputs(path):
    """By the schema of nbformat 4.5."""
    content = json.loads(path.read_text())
    assert (content["nbformat"], content["nbformat_minor"]) == (4, 5)
    assert set(content) == {"cells", "metadata", "nbformat", "nbformat_minor"}
    names = [cell["id"] for cell in content["cells"]]
    assert len(set(names)) == len(names)
    assert all(re.fullmatch(r"[a-zA-Z0-9-_]{1,64}", name) for name in names)
    for cell in content["cells"]:
        assert cell["cell_type"] in ("code", "markdown") and source(cell).strip()
        if cell["cell_type"] == "code":
            assert cell["outputs"] == [] and cell["execution_count"] is None
    (parameters,) = (cell for cell in cells(path, "code") if has_tag(cell, "parameters"))
    assert {type(node) for node in ast.parse(source(parameters)).body} == {ast.Assign}
    assert len(cells(path, "code")) <= 12 and path.stat().st_size < 20_000


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_commands_and_links_of_a_notebook_exist(path, monkeypatch):
    monkeypatch.chdir(ROOT)
    for cell in cells(path, "code"):
        for line in SHELL.findall(source(cell)):
            line = re.sub(r"\{\w+\}", "7", line.replace("\\\n", " "))  # the value of a parameter
            _, command, rest = A_COMMAND.fullmatch(line).groups()
            settings, others = settings_of(INSTALLED[command])
            parsed = config_flags.parse(rest.split(), settings, **others)
            for kind in settings:
                parsed.read(kind)
    for cell in cells(path, "markdown"):
        for link in re.findall(r"\]\(([^)\s]+)\)", source(cell)):
            target, _, anchor = link.partition("#")
            if not re.match(r"\w+:", link):
                file = (path.parent / target).resolve()
                assert file.is_file(), link
                assert not anchor or anchor in anchors(PAGES[str(file.relative_to(ROOT))]), link
        for named in re.findall(r"`(deeplab-[\w-]+)", source(cell)):
            assert named in INSTALLED, named


def as_program(path, parameters, *additions):
    """Returns the code cells as one program, in their order, as a kernel would run them.

    The cell of the parameters is replaced, and that which installs the package is left out.
    """
    parts = ["import os, subprocess, sys"]
    for cell in cells(path, "code"):
        if has_tag(cell, "install"):
            continue
        text = "\n".join(parameters) if has_tag(cell, "parameters") else source(cell)
        parts.append(SHELL.sub(as_call, text))
    return "\n\n".join([*parts, *additions])


def as_call(found):
    """Returns Python for a command line: the module of this clone in place of the command."""
    _, command, rest = A_COMMAND.fullmatch(found[1].replace("\\\n", " ")).groups()
    return (
        f"subprocess.run([sys.executable, '-m', {INSTALLED[command]!r}, "
        f"*f{rest!r}.split()], check=True)"
    )


def run(program, folder):
    """Runs a program in a fresh process, in a folder outside the clone."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "DEEPLAB_TF_HOME": str(folder / "home")}
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


@pytest.mark.slow
def test_own_images_become_a_served_model(tmp_path):
    path = ROOT / "docs/notebooks/own_data.ipynb"
    # As cameras save them: lying, with a note of how to turn them.
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (60, 40), "gray").save(tmp_path / "photo.jpg", exif=exif)
    parameters = ["NUM_IMAGES, STEPS = 16, 20", "PHOTO = 'photo.jpg'"]
    printed = run(as_program(path, parameters), tmp_path)
    assert printed.splitlines()[-1] == "Pixels that the server labels otherwise: 0"
    assert (tmp_path / "run/report.html").stat().st_size > 100_000
    results = json.loads((tmp_path / "run/eval/results.json").read_text())
    assert results["images"] == 100 and 1 <= results["step"] <= 20


@pytest.mark.slow
def test_pretrained_weights_predict_a_photo(tmp_path):
    """With a file of 21 classes in place of the published one."""
    write_ssseg(tmp_path / "weights.pth")
    weight_import.main(
        ImportConfig(
            source=str(tmp_path / "weights.pth"),
            output=str(tmp_path / "voc"),
            output_stride=16,
            atrous_rates=(6, 12),
        )
    )
    build_shapes_data.main(
        build_shapes_data.ShapesConfig(output_dir=str(tmp_path / "s"), num_train=1, num_val=1)
    )
    photo = tmp_path / "s/images/val/val_0000.jpg"
    path = ROOT / "docs/notebooks/pretrained.ipynb"
    parameters = [f"MODEL = {str(tmp_path / 'voc')!r}", f"PHOTO = {str(photo)!r}"]
    printed = run(
        as_program(path, parameters, "print(photo.size == confidence.shape[::-1])"), tmp_path
    )
    classes, *shares, same_size = printed.splitlines()
    assert classes.split(", ")[:2] == ["__background__", "aeroplane"] and same_size == "True"
    assert sum(float(line.split()[-2]) for line in shares) == pytest.approx(100, abs=0.2)
