"""The rules of the house: imports go one way, names are documented."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FRONT_DOOR = ROOT / "deeplab_tf" / "__init__.py"
# From the lowest to the highest. A module may import from its own folder and from those below.
ORDER = [
    "messages",
    "startup",
    "files",
    "json_files",
    "config",
    "unpacking",
    "archives",
    "distribution",
    "ops",
    "data",
    "conversion",
    "models",
    "weights",
    "runs",
    "evaluation",
    "training",
    "serving",
    "inference",
    "reporting",
    "jobs",
    "entry points",
]


def modules():
    files = [*ROOT.glob("deeplab_tf/**/*.py"), *ROOT.glob("datasets/*.py")]
    return sorted(path for path in files if path != FRONT_DOOR and path.read_text())


def module_name(path):
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


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


def place(name):
    """Returns the folder that a module belongs to, as ORDER calls it."""
    top, folder, *rest = name.split(".")
    if top == "datasets" or (not rest and folder not in ORDER):
        return "entry points"
    return folder


NAMES = {module_name(path) for path in modules()}


@pytest.mark.parametrize("path", [FRONT_DOOR, *modules()], ids=module_name)
def test_an_import_in_a_function_says_why(path):
    """All others stand at the top, where a reader sees what a module needs."""
    source = path.read_text()
    for function in ast.walk(ast.parse(source)):
        if not isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        for node in ast.walk(function):
            if isinstance(node, ast.Import | ast.ImportFrom):
                line = source.splitlines()[node.end_lineno - 1]
                assert "  # " in line, f"{module_name(path)} gives no reason for `{line.strip()}`"


def test_each_job_has_its_program():
    """`jobs.start` takes a name, which no type checker looks up."""
    started = []
    for path in ROOT.glob("deeplab_tf/*.py"):
        started += re.findall(r'\bjobs\.start\(\s*"(\w+)"', path.read_text())
    with_main = [
        path.stem for path in ROOT.glob("deeplab_tf/jobs/*.py") if "\ndef main(" in path.read_text()
    ]
    assert sorted(started) == sorted(with_main) != []


def test_every_folder_has_a_place():
    assert {place(name) for name in NAMES} == set(ORDER)


@pytest.mark.parametrize("path", modules(), ids=module_name)
def test_imports_go_one_way(path):
    name, used = module_name(path), imported(ast.parse(path.read_text()))
    for other in used & NAMES - {name}:
        same_room = place(other) == place(name) != "entry points"
        below = ORDER.index(place(other)) < ORDER.index(place(name))
        assert same_room or below, f"{name} imports {other}"
    if place(name) in ("models", "ops"):
        assert not any(other.startswith("deeplab_tf.data") for other in used)
    if place(name) != "entry points" and name != "deeplab_tf.config.flags":
        assert not any(other.startswith("absl.flags") for other in used)


def test_no_folder_imports_in_a_circle():
    """Within a folder too, there is an order in which its modules can be read."""
    left = {
        module_name(path): imported(ast.parse(path.read_text())) & NAMES - {module_name(path)}
        for path in modules()
    }
    while left:
        readable = [name for name, needs in left.items() if not needs & set(left)]
        assert readable, f"a circle among {sorted(left)}"
        for name in readable:
            del left[name]
