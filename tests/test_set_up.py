"""`.ci/set_up` on machines made of stubs: which Python it takes, and what it says without one."""

import shutil
import subprocess
from pathlib import Path

import pytest

SET_UP = Path(__file__).resolve().parents[1] / ".ci/set_up"

# Answers as an interpreter does; `venv` gives the environment a pip and notes who made it.
PYTHON = """#!/bin/sh
case $1 in
-c) exit {status} ;;
-m) mkdir -p "$4/bin" && cp "$HOME/pip" "$4/bin/pip" && echo "{name}" >"$4/made_by" ;;
esac
"""
PIP = """#!/bin/sh
echo "$@" >>"$HOME/log"
case "$*" in *uv) $NETWORK && cp "$HOME/uv" "${0%/pip}/uv" ;; esac
"""
UV = """#!/bin/sh
echo "uv $@" >>"$HOME/log"
case $2 in
install) $NETWORK ;;
find) echo "$HOME/fetched" ;;
esac
"""


class Machine:
    """A PATH of stubs, a home and an /etc/os-release."""

    def __init__(self, home: Path, *, network: bool = True):
        self.home, self.network = home, network
        for tool in ("sh", "uname", "grep", "cat", "mkdir", "cp"):
            self.script(f"bin/{tool}", f'#!/bin/sh\nexec {shutil.which(tool)} "$@"\n')
        self.script("pip", PIP)
        self.script("uv", UV)
        self.python("fetched")

    def script(self, name: str, text: str) -> None:
        path = self.home / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(0o755)

    def python(self, name: str, *, supported: bool = True) -> None:
        """Installs an interpreter at a path below the home; bin/ is on PATH."""
        self.script(name, PYTHON.format(status=int(not supported), name=name))

    def set_up(self, wanted: str = "", *, system: str = "ID=debian"):
        (self.home / "os-release").write_text(system + "\n")
        environment = {
            "PATH": str(self.home / "bin"),
            "HOME": str(self.home),
            "OS_RELEASE": str(self.home / "os-release"),
            "NETWORK": str(self.network).lower(),
        }
        arguments = ["sh", SET_UP, self.home / "venv", wanted, "folder", "-e", "."]
        return subprocess.run(arguments, env=environment, capture_output=True, text=True)

    def made_by(self) -> str:
        return (self.home / "venv/made_by").read_text().strip()

    def log(self) -> str:
        return (self.home / "log").read_text()


@pytest.mark.parametrize(
    ("there", "wanted", "taken"),
    [
        (["bin/python3.10", "bin/python3.12", "bin/python3"], "", "bin/python3.12"),
        (["bin/python3"], "", "bin/python3"),
        ([".pyenv/versions/3.11.9/bin/python"], "", ".pyenv/versions/3.11.9/bin/python"),
        (["bin/python3", ".pyenv/versions/3.13.0/bin/python"], "", "bin/python3"),
        (["bin/python3.13", "bin/python3.11"], "3.11", "bin/python3.11"),
        (
            ["bin/python3.13", ".pyenv/versions/3.12.1/bin/python"],
            "3.12",
            ".pyenv/versions/3.12.1/bin/python",
        ),
        (["bin/python3.13", "opt/my python"], "{home}/opt/my python", "opt/my python"),
        (["bin/python3.13", "bin/python3.10"], "python3.10", "bin/python3.10"),
    ],
)
def test_the_newest_supported_python_is_taken_or_the_named_one(tmp_path, there, wanted, taken):
    machine = Machine(tmp_path)
    for name in there:
        machine.python(name)
    machine.python("bin/python3.14", supported=False)

    done = machine.set_up(wanted.format(home=tmp_path))

    assert done.returncode == 0 and not done.stderr, done.stderr
    assert machine.made_by() == taken
    assert machine.log().endswith("-c folder/python.txt -e .\n")


@pytest.mark.parametrize("has_uv", [True, False])
@pytest.mark.parametrize("wanted", ["", "3.13"])
def test_uv_fetches_a_python_where_there_is_none(tmp_path, has_uv, wanted):
    machine = Machine(tmp_path)
    machine.python("bin/python3", supported=False)  # 3.14, say
    if has_uv:
        machine.script("bin/uv", UV)

    done = machine.set_up(wanted)

    assert done.returncode == 0
    assert done.stderr.count("\n") == 1 and "uv fetches Python 3.13." in done.stderr
    assert machine.made_by() == "fetched"
    assert "uv python install --quiet 3.13" in machine.log()


@pytest.mark.parametrize(
    ("system", "command"),
    [
        ("ID=debian", "apt-get install python3 python3-venv"),
        ("ID=linuxmint\nID_LIKE='ubuntu debian'", "apt-get install python3 python3-venv"),
        ("ID=fedora", "dnf install python3"),
        ('ID="rocky"\nID_LIKE="rhel centos fedora"', "dnf install python3"),
        ("ID=arch", "pacman -S uv"),
        ("ID=plan9", "https://docs.astral.sh/uv"),
    ],
)
def test_without_a_python_one_sentence_says_what_to_install(tmp_path, system, command):
    done = Machine(tmp_path, network=False).set_up(system=system)
    assert done.returncode == 1 and done.stderr.count("\n") == 1
    assert done.stderr.startswith("No Python 3.10 to 3.13 ") and command in done.stderr


def test_a_wrong_python_is_refused_and_nothing_else_taken(tmp_path):
    machine = Machine(tmp_path)
    machine.python("bin/python3.13")
    machine.python("bin/python3")  # which could install uv, but uv's 3.9 would not do either
    for wanted in ("3.9", "3.14", "/no/such/python", "python3.14"):
        done = machine.set_up(wanted)
        assert done.returncode == 1 and f"PYTHON={wanted} is no Python 3.10" in done.stderr
        assert done.stderr.count("\n") == 1


def test_no_network_is_one_sentence(tmp_path):
    machine = Machine(tmp_path)
    machine.script("pip", "#!/bin/sh\necho 'Retrying: NewConnectionError' >&2\nexit 1\n")
    machine.python("bin/python3.12")
    done = machine.set_up()
    assert done.returncode == 1 and done.stderr.count("\n") == 1
    assert "pip cannot reach its package index" in done.stderr
