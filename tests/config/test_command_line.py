"""Command lines and flagfiles as people write them; settings are named by what they hold."""

import codecs
import random
import re
from dataclasses import dataclass

import pytest

from deeplab_tf import files
from deeplab_tf.config import (
    Config,
    DataConfig,
    EvalConfig,
    ModelConfig,
    TrainConfig,
    command_line,
    flags,
    setting,
)
from deeplab_tf.messages import UserError


@dataclass(frozen=True, kw_only=True)
class Settings(Config):
    """One setting of each kind."""

    name: str = setting("", "A text.")
    steps: int = setting(1, "A number.")
    rate: float = setting(0.5, "Another.")
    flip: bool = setting(False, "A switch.")
    rates: tuple[int, ...] = setting((6,), "Numbers.")
    splits: tuple[str, ...] = setting((), "Texts.")
    input: tuple[str, ...] = setting((), "Files.", names="paths")
    split_lists: tuple[str, ...] = setting((), "Files of splits.", names="named_files")


def parse(*arguments):
    """Returns what a command line gives: the settings that are not the defaults."""
    job = flags.parse(arguments, [Settings])
    return {name: job.values[name] for name in sorted(job.given)}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(folder, name, *lines):
    (folder / name).write_text("\n".join(lines) + "\n")
    return f"--flagfile={name}"


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--name=a=b"], {"name": "a=b"}),
        (["-name=a"], {"name": "a"}),
        (["--name", "a b", "--steps", "-3"], {"name": "a b", "steps": -3}),
        (["--rate", "-.5"], {"rate": -0.5}),
        (["--name="], {"name": ""}),
        (["--flip"], {"flip": True}),
        (["--noflip"], {"flip": False}),
        (["--flip=1", "--"], {"flip": True}),
        (["--rates", "1", "--rates=2,3", "-rates=4"], {"rates": (1, 2, 3, 4)}),
        (["--rates=1", "--rates=", "--rates=2"], {"rates": (2,)}),
        (["--rates="], {"rates": ()}),
        (["--rates=1, 2"], {"rates": (1, 2)}),
        (["--splits=a, b", "--splits=c"], {"splits": ("a", "b", "c")}),
        (["--undefok=new,flip,neu", "--new=1", "--noneu", "--flip"], {"flip": True}),
        (["--undefok", "new", "--new"], {}),
        (["--logtostderr", "--verbosity", "1", "--flip"], {"flip": True}),  # absl's own
    ],
)
def test_forms_of_flags(arguments, expected):
    assert parse(*arguments) == expected


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--name"], "--name has no value; write --name=VALUE"),
        (["--name", "--steps=3"], "--name has no value"),  # not the name "--steps=3"
        (["--name", "-steps=3"], "--name has no value"),
        (["--flagfile"], "--flagfile has no value"),
        (["--flip", "false"], "'false' is not a flag; settings are given as --name=value"),
        (["--noflip=true"], "--noflip takes no value; write --noflip or --flip=VALUE"),
        (["--nosteps"], "Unknown command line flag 'nosteps'. Did you mean: steps"),
        (["--stpes=3"], "Unknown command line flag 'stpes'. Did you mean: steps"),
        (["--new", "value"], "Unknown command line flag 'new'"),
        (["--", "--flip"], "'--flip' is not a flag"),
        (["-"], "'-' is not a flag"),
        (["--rates=1,,2"], "--rates=1,,2 is not possible; allowed: whole numbers, joined by"),
        (["--rates=1.5"], "--rates=1.5 is not possible"),
        (["--flip=maybe"], "--flip=maybe is not possible; allowed: true or false"),
        (["--flip", "--noflip"], "--flip is given twice, as 'true' and as 'false'"),
        (["--steps=3", "--steps", "3"], "--steps is given twice, as '3' and as '3', but takes one"),
        (["--flagfile=none.flags"], "The flagfile none.flags does not exist"),
        (["--flagfile=."], "The flagfile . cannot be read: Is a directory"),
    ],
)
def test_what_can_be_misread_is_refused(folder, arguments, message):
    with pytest.raises(UserError, match=re.escape(message)):
        parse(*arguments)


def test_the_command_line_replaces_flagfiles_and_a_later_one_the_earlier(folder):
    one = write(folder, "one.flags", "--rates=1", "--steps=1", "--rates=2", "--name=one")
    two = write(folder, "two.flags", "# a comment", "", "// another", "-steps=2", "--noflip")
    assert parse(one) == {"rates": (1, 2), "steps": 1, "name": "one"}
    expected = {"rates": (7, 8), "steps": 2, "name": "one", "flip": False}
    assert parse(one, two, "--rates=7", "--rates=8") == expected
    assert parse("--rates=7", one, "--rates=8", "--flagfile", "two.flags") == expected
    assert parse(two, "--rates=7,8", one) == expected | {"steps": 1}
    assert parse(one, "--rates=")["rates"] == ()


def test_a_flagfile_replaces_those_that_it_names(folder):
    write(folder, "base.flags", "--rates=1,2", "--steps=1", "--name=base")
    for lines in (["--flagfile=base.flags", "--steps=2"], ["--steps=2", "--flagfile=base.flags"]):
        variant = write(folder, "variant.flags", *lines)
        assert parse(variant, "--name=mine") == {"rates": (1, 2), "steps": 2, "name": "mine"}


def test_a_flagfile_is_found_here_or_next_to_the_one_that_names_it(folder):
    (folder / "configs").mkdir()
    variant = write(folder, "configs/variant.flags", "--flagfile=base.flags", "--name=mine")
    with pytest.raises(UserError, match="variant.flags, line 1: The flagfile .*base.flags does"):
        parse(variant)

    write(folder, "base.flags", "--steps=1")
    assert parse(variant) == {"steps": 1, "name": "mine"}
    write(folder, "configs/base.flags", "--steps=2")
    with pytest.raises(
        UserError, match="variant.flags, line 1: --flagfile=base.flags exists twice"
    ):
        parse(variant)
    (folder / "base.flags").unlink()
    assert parse(variant) == {"steps": 2, "name": "mine"}


@pytest.mark.parametrize("name", ["voc_r50_os16", "voc_r50_os16.flags"])
def test_a_recipe_is_found_by_its_name(folder, name):
    def run_of(flagfile):
        kinds = [ModelConfig, DataConfig, TrainConfig, EvalConfig]
        return flags.parse([f"--flagfile={flagfile}"], kinds).values

    recipe = command_line.recipes()["voc_r50_os16"]
    runs = folder / "voc_r50_os16"
    runs.mkdir()
    assert run_of(name) == run_of(recipe)
    runs.rmdir()
    write(folder, name, "--train_batch_size=3")
    assert run_of(name)["train_batch_size"] == 3

    of_google = run_of("official/voc_xception65_os16")
    assert of_google["model_variant"] == "xception_65"
    assert of_google == run_of(command_line.recipes()["official/voc_xception65_os16"])


def test_a_name_of_no_recipe_lists_them(folder):
    with pytest.raises(UserError, match="no recipe has that name.* are ade20k_r101_os16, .*voc_"):
        parse("--flagfile=voc_r50_os61")
    with pytest.raises(UserError, match="does not exist; .* is --flagfile=voc_r50_os16"):
        parse("--flagfile=configs/voc_r50_os16.flags")


def test_flagfiles_that_name_each_other_are_refused(folder):
    write(folder, "a.flags", "--flagfile=b.flags")
    write(folder, "b.flags", "--steps=1", "--flagfile=./a.flags")
    with pytest.raises(UserError, match="b.flags, line 2: --flagfile=a.flags leads back to"):
        parse("--flagfile=a.flags")


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize(
    ("encoding", "mark"),
    [
        ("utf-8", b""),
        ("utf-8", codecs.BOM_UTF8),
        ("utf-16-le", codecs.BOM_UTF16_LE),
        ("utf-16-be", codecs.BOM_UTF16_BE),
    ],
)
def test_any_editor_may_write_a_flagfile(folder, encoding, mark, end):
    text = end.join(["--name= größe ", "  --rates=3  ", "", "# Ende", "--rates=4", "--steps=5"])
    (folder / "x.flags").write_bytes(mark + text.encode(encoding))
    assert parse("--flagfile=x.flags") == {"name": "größe", "rates": (3, 4), "steps": 5}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (
            "--steps=3 # three",
            "'--steps=3 # three' seems to end in a comment; put comments",
        ),
        ("--name=/data  // mine", "seems to end in a comment"),
        ('--name="/data"', "has quotes, which would become part of the value; remove them"),
        ("--name='a b'", "has quotes"),
        ('"--name=a"', "is not a flag; write --name=value, one per line"),
        ("--name a", "'--name a' is not a flag; write --name=value"),
        ("--flagfile b.flags", "is not a flag; write --name=value"),
        ("--name", "--name has no value"),
        ("name=a", "'name=a' is not a flag"),
        ("--nmae=a", "Unknown command line flag 'nmae'. Did you mean: name"),
        ("--steps=x", "--steps=x is not possible; allowed: a whole number"),
        ("--rate=1", "--rate is given twice, as '2' and as '1'"),
        ("--flagfile=none", "The flagfile none does not exist"),
    ],
)
def test_a_mistake_in_a_flagfile_is_named_with_its_line(folder, line, message):
    flagfile = write(folder, "x.flags", "# settings", "--rate=2", line)
    with pytest.raises(UserError, match="x.flags, line 3: ") as caught:
        parse(flagfile)
    assert message in str(caught.value)


def test_a_flagfile_that_is_no_text_is_refused(folder):
    for content in (b"\x89PNG\r\n\x1a\n\0\0", "--steps=3".encode("utf-16-le"), b"--name=\xff"):
        (folder / "x.flags").write_bytes(content)
        with pytest.raises(UserError, match=r"The flagfile x.flags is no"):
            parse("--flagfile=x.flags")


@pytest.mark.parametrize(
    ("text", "paths"),
    [
        ("my photo, 1.JPG", ["my photo, 1.JPG"]),
        ("a.png,my photo, 1.JPG,b.png", ["a.png", "my photo, 1.JPG", "b.png"]),
        ("a.png, b.png", ["a.png", "b.png"]),
        ("sub,folder", ["sub,folder"]),
        ("sub,folder/c,d,e.png,a.png", ["sub,folder/c,d,e.png", "a.png"]),
        ("my*, ?.JPG,a.png", ["my*, ?.JPG", "a.png"]),
        ("*.png,sub,folder/**/*.png", ["*.png", "sub,folder/**/*.png"]),
        ("my photo\\, 1.JPG", ["my photo, 1.JPG"]),
        ("none, 1.png", ["none", "1.png"]),
        ("broken,link", ["broken,link"]),
    ],
)
def test_a_comma_in_the_name_of_what_exists_belongs_to_it(folder, text, paths):
    (folder / "sub,folder").mkdir()
    for name in ("my photo, 1.JPG", "a.png", "b.png", "sub,folder/c,d,e.png"):
        (folder / name).touch()
    (folder / "broken,link").symlink_to("nowhere")
    assert parse(f"--input={text}") == {"input": tuple(paths)}
    # A flag given again starts afresh: its text is never joined to the one before.
    assert parse("--input=my photo", f"--input={text}") == {"input": ("my photo", *paths)}


def test_a_path_with_a_comma_reaches_the_listing(folder):
    for name in ("my photo, 1.JPG", "a[1],b.png"):
        (folder / name).touch()
    job = flags.parse(["--input=my photo, 1.JPG,a[1],b.png"], [Settings])
    listing = files.find_images(job.read(Settings).input, flag="input")
    assert [path.name for _, path in listing.images] == ["my photo, 1.JPG", "a[1],b.png"]


def test_what_exists_joined_and_apart_is_refused_with_two_ways_out(folder):
    for name in ("a.png", "b.png", "a.png,b.png"):
        (folder / name).touch()
    message = r"--input=a.png,b.png exists as one name, .* write '\\,' .* or give --input once"
    with pytest.raises(UserError, match=message):
        parse("--input=a.png,b.png")
    assert parse("--input=a.png\\,b.png") == {"input": ("a.png,b.png",)}
    assert parse("--input=a.png", "--input=b.png") == {"input": ("a.png", "b.png")}


def test_a_comma_in_the_name_of_a_splits_file_belongs_to_it():
    text = "train=my, list.txt, val=b,c=d.txt,e,test=/x/f.txt"  # c= begins a split, too
    expected = ("train=my, list.txt", "val=b", "c=d.txt,e", "test=/x/f.txt")
    assert parse(f"--split_lists={text}") == {"split_lists": expected}
    assert parse("--split_lists=a=b\\,c=d") == {"split_lists": ("a=b,c=d",)}


def test_a_list_of_thousands_of_names_is_read_at_once(folder):
    names = [f"image_{number:05d}.png" for number in range(1000)]
    for name in names[::100]:
        (folder / name).touch()
    assert parse(f"--input={','.join(names)}") == {"input": tuple(names)}


def test_parts_of_lists_survive_their_text():
    rng = random.Random(0)
    for _ in range(2000):
        parts = ["".join(rng.choices("ab\\, =#\"'", k=rng.randint(1, 5))) for _ in range(3)]
        assert command_line.split_parts(command_line.join_parts(parts)) == tuple(parts)
    assert command_line.split_parts("C:\\x,\\\\") == ("C:\\x", "\\")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"splits": "val"}, "splits='val' is not possible; allowed: a tuple"),
        ({"splits": ("a", "")}, "--splits=a, is not possible; allowed: a list without empty"),
        ({"name": "a\nb"}, "--name=a.nb is not possible; allowed: a single line"),
        ({"rate": float("nan")}, "--rate=nan is not possible; allowed: a finite number"),
    ],
)
def test_values_that_no_flag_can_hold_are_refused(values, message):
    with pytest.raises(UserError, match=message):
        Settings(**values)


def test_flags_that_are_gone_say_what_to_do():
    for argument in ("--download", "--download=true"):
        with pytest.raises(UserError, match="There is no --download: fetch it by hand."):
            flags.parse([argument], [Settings], instead={"download": "fetch it by hand."})
