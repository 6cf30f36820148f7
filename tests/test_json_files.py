import json
import math

import pytest

from deeplab_tf import json_files
from deeplab_tf.json_files import (
    keyed,
    listed,
    mapped,
    number,
    or_listed,
    or_null,
    switch,
    text,
    tupled,
    whole,
)
from deeplab_tf.messages import UserError

CHECK = keyed(
    {"name": text(), "color": tupled(whole(0, 255), whole(0, 255), whole(0, 255))},
    {
        "on": switch(),
        "share": or_null(number(0, 1)),
        "ids": or_listed(whole(0, 9)),
        "parts": listed(text(), least=1, most=2),
        "counts": mapped(whole(0, 9)),
    },
)
GOOD = {"name": "a", "color": [1, 2, 3]}


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"on": False, "share": None, "ids": 3, "parts": ["a"], "counts": {}},
        {"share": 1, "ids": [3, 4], "parts": ["a", "b"], "counts": {"x": 9}},
        {"written": "by a later version", "deep": [[{}]]},
    ],
)
def test_what_passes_is_returned_as_it_is(tmp_path, more):
    path = tmp_path / "a.json"
    for encoding in ("utf-8", "utf-8-sig", "utf-16"):
        path.write_text(json.dumps(GOOD | more), encoding=encoding)
        assert json_files.read(path, "The file", CHECK, advice="mend it") == GOOD | more


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"name": 3}, "name is 3, but must be a text"),
        ({"name": "a\ud800"}, r'name is "a\\ud800", but must be'),
        ({"color": [1, 2]}, "color is a list of 2, but must be a list of 3"),
        ({"color": [1, 2, 256]}, r"color\[2\] is 256, but must be a whole number from 0 to 255"),
        ({"color": [1, 2, True]}, r"color\[2\] is true, but"),
        ({"color": [1, 2, 2.0]}, r"color\[2\] is 2.0, but"),
        ({"color": None}, "color is null, but"),
        ({"on": 1}, "on is 1, but must be true or false"),
        (
            {"share": "x" * 999},
            r'share is "x+\.\.\. \(1001 characters\), but must be a number from',
        ),
        ({"share": -0.5}, "share is -0.5"),
        ({"ids": []}, "ids is a list of 0, but must be a list of 1 or more"),
        ({"ids": [[3]]}, r"ids\[0\] is a list of 1, but"),
        ({"parts": ["a"] * 3}, "parts is a list of 3, but must be a list of 1 to 2"),
        ({"counts": {"x": {}}}, r"counts\.x is an object of 0, but must be a whole"),
        ({"counts": []}, "counts is a list of 0, but must be an object"),
    ],
)
def test_what_does_not_pass_is_named_with_what_is_allowed(more, message):
    with pytest.raises(ValueError, match=message):
        json_files.parse(json.dumps(GOOD | more), CHECK)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "it is not JSON"),
        ("{}", "name is missing"),
        ("[]", "its content is a list of 0, but must be an object"),
        ("[" * 10**5, "too many brackets"),
        ('{"a":' * 10**5, "too many brackets"),
        ('{"a": 1, "b": 2, "a": 1}', 'the key "a" twice'),
        ('{"a": NaN}', "it holds NaN"),
        ('{"a": -Infinity}', "it holds -Infinity"),
        ('{"a": 1e999}', "it holds 1e999, which is too large"),
        ("9" * 10**5, r"it holds 9+\.\.\. \(100000 characters\), which is too large"),
    ],
)
def test_what_python_would_read_otherwise_is_refused(tmp_path, content, message):
    path = tmp_path / "a.json"
    path.write_text(content)
    with pytest.raises(UserError, match=f"^The file {path} is damaged .*{message}.*; mend it.$"):
        json_files.read(path, "The file", CHECK, advice="mend it")


def test_a_folder_or_nothing_in_place_of_a_file(tmp_path):
    for path, message in ((tmp_path, "cannot be read"), (tmp_path / "x", "does not exist")):
        with pytest.raises(UserError, match=f"The file {path} {message}"):
            json_files.read(path, "The file", CHECK, advice="mend it")


def test_ends_of_ranges_belong_to_them():
    for value in (0, 0.5, 1):
        json_files.parse(json.dumps({"share": value} | GOOD), CHECK)
    with pytest.raises(ValueError, match="share is"):
        json_files.parse(json.dumps({"share": math.nextafter(1, 2)} | GOOD), CHECK)
