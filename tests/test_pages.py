"""What the pages show is there: links, headings, paths, commands, flags, job files."""

import ast
import functools
import importlib
import json
import os
import re
import shlex

import pytest

from deeplab_tf.config import flags as config_flags
from deeplab_tf.config import official_flags
from deeplab_tf.distribution import _cluster
from tests.test_architecture import ORDER, ROOT

PAGES = {
    str(path.relative_to(ROOT)): path.read_text()
    for folder in (".", "docs", "datasets", "deeplab_tf", "tests", "benchmarks", "configs")
    for path in sorted((ROOT / folder).glob("*.md" if folder == "." else "**/*.md"))
}
CLUSTER = "docs/training.md"
FENCED = re.compile(r"^( *)```.*?\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)


def console_commands():
    """Returns the module of each command that installing the package makes."""
    setup = (ROOT / "setup.cfg").read_text()
    found = re.findall(r"^ +([\w-]+) = ([\w.]+):run$", setup, re.MULTILINE)
    return {name: module.replace("deeplab_tf.datasets", "datasets") for name, module in found}


INSTALLED = console_commands()
A_COMMAND = re.compile(
    rf"(?<![\w/-])(?:python -m ((?:deeplab_tf|datasets)\.\w+)|({'|'.join(INSTALLED)})(?![\w-]))(.*)"
)


def commands(text):
    """Yields program and words of each command of this package in a page's fenced blocks."""
    blocks = "\n".join(block for _, block in FENCED.findall(text))
    blocks = blocks.replace("\\\n", " ")
    for module, installed, rest in A_COMMAND.findall(blocks):
        rest = re.split(r" [|>&]|' *$", rest)[0]  # pipes, and the quote that ends a job's script
        yield module or INSTALLED[installed], shlex.split(rest, comments=True)


def prose(text):
    """Returns a page without its fenced blocks."""
    return FENCED.sub("", text)


@functools.cache
def settings_of(program):
    """Returns the settings groups of a program, and what else it gives to `parse`, by name."""
    given = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            config_flags,
            "run",
            lambda main, settings, *_, **others: given.update(settings=settings, **others),
        )
        importlib.import_module(program).run()
    return given.pop("settings"), given


@functools.cache
def flags_of(program):
    settings, others = settings_of(program)
    names = set(config_flags.parse([], settings, **others).values)
    names |= set(official_flags.of_program(others.get("official", "")))
    return names | {f"no{name}" for name in names} | {"flagfile", "help"}


def programs():
    return sorted(set(INSTALLED.values()))


def all_flags():
    return set().union(*map(flags_of, programs()))


ALL_COMMANDS = [
    pytest.param(program, words, id=f"{page}: {program}")
    for page, text in PAGES.items()
    for program, words in commands(text)
]


@pytest.mark.parametrize(("program", "words"), ALL_COMMANDS)
def test_every_command_is_taken_by_its_program(program, words, monkeypatch):
    monkeypatch.chdir(ROOT)
    settings, others = settings_of(program)
    assert all(word.startswith("--") for word in words), words
    parsed = config_flags.parse(words, settings, **others)
    if words != ["--help"]:
        for kind in settings:
            parsed.read(kind)


def test_no_command_hides_in_another_kind_of_block():
    for page, text in PAGES.items():
        shown = re.findall(r"^ *(?:exec )?python -m (?:deeplab_tf|datasets)\.", text, re.MULTILINE)
        found = list(commands(text))
        assert len(found) >= len(shown), page
        assert not re.search(r"^ *(?:exec )?python -m", prose(text), re.MULTILINE), page


@pytest.mark.parametrize("page", PAGES)
def test_every_flag_that_a_page_names_exists(page):
    text = prose(PAGES[page])
    mentioned = set(re.findall(r"(?<![\w-])--(\w[\w-]*)", text))
    assert mentioned <= all_flags(), mentioned - all_flags()


@pytest.mark.parametrize("page", PAGES)
def test_every_flag_belongs_to_the_program_that_it_is_named_with(page):
    """As in `export_model --serving_device=cpu`."""
    by_name = {program.split(".")[-1]: program for program in programs()} | INSTALLED
    for span in re.findall(r"`([^`]+)`", prose(PAGES[page])):
        first, *words = span.removeprefix("python -m ").split()
        program = by_name.get(first.split(".")[-1])
        named = re.findall(r"(?<![\w-])--(\w+)", " ".join(words))
        assert not program or set(named) <= flags_of(program), span


def anchors(text):
    """Returns the anchors that GitHub gives a page's headings."""
    found = []
    for heading in re.findall(r"^#+ (.*)$", prose(text), re.MULTILINE):
        heading = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).strip().lower()
        slug = re.sub(r"[^\w\- ]", "", heading).replace(" ", "-")
        again = sum(
            re.fullmatch(rf"{re.escape(slug)}(-\d+)?", other) is not None for other in found
        )
        found.append(f"{slug}-{again}" if again else slug)
    return found


@pytest.mark.parametrize("page", PAGES)
def test_every_link_leads_somewhere(page):
    for link in re.findall(r"\]\(([^)\s]+)\)", prose(PAGES[page])):
        if re.match(r"\w+:", link):  # another site's
            continue
        path, _, anchor = link.partition("#")
        target = (ROOT / page).parent / path if path else ROOT / page
        assert target.exists(), link
        if anchor:
            assert anchor in anchors(target.read_text()), link


def test_every_page_that_the_code_names_exists():
    files = [ROOT / "Makefile", *ROOT.glob(".ci/*"), *ROOT.glob("configs/**/*.flags")]
    for folder in ("benchmarks", "datasets", "deeplab_tf", "tests"):
        files += (path for path in ROOT.glob(f"{folder}/**/*.py") if ".venv" not in path.parts)
    for path in files:
        for page in re.findall(r"\b(?:docs|datasets|deeplab_tf)/[\w/-]+\.md\b", path.read_text()):
            assert page in PAGES, f"{path} names {page}"


@pytest.mark.parametrize("page", PAGES)
def test_every_import_of_this_package_works(page):
    for code in re.findall(r"^```python\n(.*?)^```$", PAGES[page], re.MULTILINE | re.DOTALL):
        for node in ast.walk(ast.parse(code)):
            if isinstance(node, ast.ImportFrom) and str(node.module).startswith("deeplab_tf"):
                module = importlib.import_module(str(node.module))
                assert all(hasattr(module, alias.name) for alias in node.names), node.module


@pytest.mark.parametrize("page", PAGES)
def test_every_target_of_make_exists(page):
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = re.findall(r"(?:^|`)make ([\w-]+)", PAGES[page], re.MULTILINE)
    assert set(named) <= targets, set(named) - targets


@pytest.mark.parametrize("page", PAGES)
def test_every_path_of_the_repository_exists(page):
    folders = "configs|constraints|datasets|deeplab_tf|docs|tests|benchmarks|\\.ci"
    for path in re.findall(rf"`((?:{folders})/[\w./*-]*)`", prose(PAGES[page])):
        assert list(ROOT.glob(path.rstrip("/"))), path


def test_the_map_is_that_of_the_package():
    """docs/architecture.md has a row for each folder, in the order in which they may import."""
    rows = re.findall(r"^\| `deeplab_tf/(\w+)", PAGES["docs/architecture.md"], re.MULTILINE)
    assert rows == [folder for folder in ORDER if folder != "entry points"]


def test_what_is_said_to_be_missing_is_missing():
    """docs/research-deeplab.md names flags of the official package that this one does not have."""
    _, missing = PAGES["docs/research-deeplab.md"].split("## What is not there")
    names = set(re.findall(r"`([a-z]+(?:_\w+)+)`", missing))
    assert names
    assert not names & all_flags(), names & all_flags()


@pytest.mark.parametrize("index", [0, 1])
def test_the_job_files_describe_their_hosts(monkeypatch, index):
    """TF_CONFIG as the shell of each job makes it."""
    assignment = r'export TF_CONFIG=("\{.*?\}\}"|\'\{.*?\}\}\')'
    texts = re.findall(assignment, PAGES[CLUSTER], flags=re.DOTALL)
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
