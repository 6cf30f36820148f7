"""The wheel: what is in it, what it asks for on each Python, and its commands."""

import email
import importlib.metadata
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[1]
_TAKE_LONG = {"tensorflow", "keras", "tf_keras", "keras_cv", "tensorboard", "matplotlib", "scipy"}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    # A copy: setuptools leaves its files in the folder that it builds.
    source = tmp_path_factory.mktemp("source") / "copy"
    source.mkdir()
    for name in ("deeplab_tf", "datasets", "configs"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation"]
    done = subprocess.run(
        [*command, "--quiet", "--wheel-dir", source.parent, source], capture_output=True, text=True
    )
    if "Cannot import 'setuptools" in done.stderr or "No module named pip" in done.stderr:
        pytest.skip("setuptools or pip is not installed here")
    assert done.returncode == 0, done.stderr
    (path,) = source.parent.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def site(wheel, tmp_path_factory):
    """The folder that pip would unpack it to."""
    folder = tmp_path_factory.mktemp("site")
    with zipfile.ZipFile(wheel) as file:
        file.extractall(folder)
    return folder


def test_it_holds_the_package_alone_with_its_recipes_and_class_lists(wheel):
    with zipfile.ZipFile(wheel) as file:
        names = file.namelist()
    (described,) = {name.split("/")[0] for name in names} - {"deeplab_tf"}
    assert described.endswith(".dist-info")  # no `datasets`, which is Hugging Face's package

    recipes = {Path(name).name for name in names if name.endswith(".flags")}
    assert recipes == {path.name for path in ROOT.glob("configs/**/*.flags")} != set()
    labels = {Path(name).name for name in names if name.endswith(".csv")}
    assert labels == {path.name for path in ROOT.glob("deeplab_tf/data/labels/*.csv")} != set()
    modules = {name for name in names if name.endswith(".py") and "/datasets/" not in name}
    assert modules - {"deeplab_tf/configs/__init__.py"} == {
        str(path.relative_to(ROOT)) for path in ROOT.glob("deeplab_tf/**/*.py")
    }


@pytest.mark.parametrize(
    ("python", "tensorflow", "keras", "numpy"),
    [
        ("3.10", "==2.15.1", "", "<2"),
        ("3.11", "==2.15.1", "", "<2"),
        ("3.12", "<2.22,>=2.16", "<2.22,>=2.16", ">=2"),
        ("3.13", "<2.22,>=2.16", "<2.22,>=2.16", ">=2"),
    ],
)
@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_each_python_gets_its_stack(site, python, tensorflow, keras, numpy, machine):
    (described,) = site.glob("*.dist-info/METADATA")
    metadata = email.message_from_string(described.read_text())
    assert metadata["Requires-Python"] == "<3.14,>=3.10"

    place = {
        "python_version": python,
        "sys_platform": "linux",
        "platform_machine": machine,
        "extra": "",
    }
    wanted = {}
    for line in metadata.get_all("Requires-Dist"):
        requirement = Requirement(line)
        if requirement.marker is None or requirement.marker.evaluate(place):
            wanted[requirement.name] = str(requirement.specifier)
    assert wanted["tensorflow"] == tensorflow and wanted["numpy"] == numpy
    assert wanted.get("tf-keras", "") == keras
    is_with_addons = tensorflow == "==2.15.1" and machine == "x86_64"
    assert ("tensorflow-addons" in wanted) == is_with_addons
    assert wanted["keras-cv"] == "==0.9.*"


def call(site, command, *arguments):
    """Runs an installed command in an empty folder; returns its outcome and what it imported."""
    (entry,) = importlib.metadata.distributions(path=[str(site)])
    (target,) = entry.entry_points.select(name=command)
    code = (
        f"import sys; sys.path.insert(0, {str(site)!r}); sys.argv = {[command, *arguments]!r}; "
        "import atexit; "
        "atexit.register(lambda: open('imported', 'w').write(' '.join(sys.modules))); "
        f"from {target.module} import {target.attr} as start; start()"
    )
    empty = site / "empty"
    empty.mkdir(exist_ok=True)
    done = subprocess.run(
        [sys.executable, "-I", "-c", code], cwd=empty, capture_output=True, text=True
    )
    return done, (empty / "imported").read_text().split()


def commands():
    """The console scripts of setup.cfg."""
    text = (ROOT / "setup.cfg").read_text().split("console_scripts =")[1].split("\n[")[0]
    return [line.split("=")[0].strip() for line in text.splitlines() if "=" in line]


@pytest.mark.parametrize("command", commands())
def test_each_command_says_at_once_what_it_does(site, command):
    """TensorFlow alone takes seconds to import, and other packages a good part of one."""
    done, imported = call(site, command, "--help")
    assert done.returncode == 0 and "usage:" in done.stdout, done.stderr
    assert done.stderr == ""
    assert not _TAKE_LONG & {*imported}


def test_recipes_are_found_by_name(site):
    done, _ = call(site, "deeplab-train", "--flagfile=no_such_recipe")
    assert done.returncode == 1 and "voc_r50_os16" in done.stderr, done.stderr
    assert "Traceback" not in done.stderr

    done, _ = call(site, "deeplab-train", "--flagfile=voc_r50_os16", "--no_such_flag=1")
    assert done.returncode == 1 and "no_such_flag" in done.stderr, done.stderr


@pytest.mark.slow
@pytest.mark.timeout(1500)  # pip fetches and unpacks TensorFlow
@pytest.mark.parametrize("version", ["3.10", "3.11", "3.12", "3.13"])
def test_it_installs_into_an_empty_environment(wheel, tmp_path, version):
    find = ["sh", ROOT / ".ci" / "find_python", version]
    python = subprocess.run(find, capture_output=True, text=True, check=True).stdout.strip()
    if not python:
        pytest.skip(f"no Python {version} is here")
    subprocess.run([python, "-m", "venv", tmp_path / "venv"], check=True)
    programs = tmp_path / "venv" / "bin"

    pip = [programs / "python", "-m", "pip", "--quiet"]
    done = subprocess.run([*pip, "install", wheel], capture_output=True, text=True)
    if "NewConnectionError" in done.stderr or "NameResolutionError" in done.stderr:
        pytest.skip("no package index can be reached")
    assert done.returncode == 0, done.stderr
    done = subprocess.run([*pip, "check"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout

    train = [programs / "deeplab-train", "--flagfile=shapes_r18_os8"]
    done = subprocess.run(
        [*train, "--dataset_dir=none", "--train_logdir=run"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1 and "Traceback" not in done.stderr, done.stderr
    assert "none" in done.stderr


def test_the_commands_are_documented():
    readme = (ROOT / "README.md").read_text()
    for command in commands():
        assert f"`{command}`" in readme, command
