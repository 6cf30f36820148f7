"""Damaged dataset.json, model cards and lists: one sentence, or what the undamaged file says."""

import json

import pytest

from deeplab_tf.data import catalog, class_lists
from deeplab_tf.data.class_lists import LabelClass
from deeplab_tf.messages import UserError
from tests.faults.mutations import mutated
from tests.faults.sentences import require_one_sentence

INFO = catalog.DatasetInfo(
    name="streets",
    classes=(
        LabelClass("road", (128, 64, 128), (7,)),
        LabelClass("car", (0, 0, 142), (26, 27)),
        LabelClass("sky", (70, 130, 180), (23,)),
    ),
)
COUNTS = {"road": 10, "car": 20, "sky": 30}
MANIFEST = INFO.to_json() | {
    "splits": {
        "train": {
            "images": 3,
            "published_images": None,
            "labelled": True,
            "statistics": {"pixels": COUNTS, "images_with": COUNTS, "ignored_pixels": 5},
            "uncounted_labels": 0,
            "remarks": {"wholly_ignored": {"images": 1, "first": "a"}},
            "palette": [[1, [2, 3, 4], "a"]],
            "skipped": [{"name": "b", "reason": "c"}],
            "shards": [{"file": "train-00000-of-00001.tfrecord", "images": 3, "bytes": 99}],
        }
    }
}


def places(content):
    """Yields each container of a JSON value with each of its keys."""
    keys = content.keys() if isinstance(content, dict) else range(len(content))
    for key in keys:
        yield content, key
        if isinstance(content[key], dict | list):
            yield from places(content[key])


ODD = (
    None, True, False, 0, -1, 1, 256, 10**30, 0.5, 1e300, "", "x", "a\nb", "\ud800", "x" * 10**4,
    [], [1], [[]], {}, {"": 0}, {"images": 1}, ["road"] * 300,
)  # fmt: skip


def changed(content, rng):
    """Returns a copy in which one value is another, is missing or stands under another key."""
    content = json.loads(json.dumps(content))
    holder, key = rng.choice(list(places(content)))
    change = rng.randrange(4)
    if change == 0:
        del holder[key]
    elif change == 1 and isinstance(holder, dict):
        holder[rng.choice(("", "é", "name", "images"))] = holder.pop(key)
    else:
        holder[key] = rng.choice(ODD)
    return content


def test_a_changed_value_in_dataset_json(fuzz):
    def attempt(rng, folder):
        content = MANIFEST
        for _ in range(rng.randint(1, 2)):
            content = changed(content, rng)
        (folder / "dataset.json").write_text(json.dumps(content))
        try:
            info = catalog.load("", folder)
            manifest = catalog.read_manifest(folder)
        except UserError as error:
            require_one_sentence(error)
            return

        # What passes can be used without any further look.
        assert info.num_classes == len(set(info.class_names)) == manifest["num_classes"]
        assert all(0 <= value <= 255 for color in info.colors for value in color)
        assert all(len(color) == 3 for color in info.colors) and 0 <= info.ignore_label <= 255
        assert all(type(value) is int for value in (*info.splits.values(), *info.label_ids))
        for entry in manifest.get("splits", {}).values():
            assert [type(shard["bytes"]) for shard in entry["shards"]] == [int] * len(
                entry["shards"]
            )

    fuzz(attempt, tries=300)


def test_damaged_bytes_of_dataset_json(fuzz):
    content = json.dumps(MANIFEST).encode()

    def attempt(rng, folder):
        (folder / "dataset.json").write_bytes(mutated(content, rng))
        try:
            catalog.load("", folder)
        except UserError as error:
            require_one_sentence(error)

    fuzz(attempt, tries=200)


LISTS = (
    b"road\ncar\nsky\n",
    b"\xef\xbb\xbfname,r,g,b,label_id\r\nroad,1,2,3,7\r\ncar,4,5,6,8;9\r\n",
    "index;name\n0;Straße\n1;Himmel\n".encode("utf-16"),
    b"# label:color_rgb:parts:actions\nroad:1,2,3::\ncar:4,5,6::\n",
)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (f"name,r,g,b\n{'a' * 200000},1,2,3\nb,1,2,3\n", "Line 2 of .* has 200006 characters"),
        (f"name,label_id\na,{'9' * 900}\nb,2\n", "must hold a whole number.*at most 9 digits"),
        (f"index,name\n{'9' * 900},a\n1,b\n", "in the column index; it must hold a whole number"),
        (f"a:{'9' * 900},2,3::\nb:1,2,3::\n", "its first line|first line of the class list"),
    ],
)
def test_long_lines_and_numbers_of_class_lists(tmp_path, text, message):
    (tmp_path / "classes.csv").write_text(text)
    with pytest.raises(UserError, match=message):
        class_lists.read_class_list(tmp_path / "classes.csv")


def test_damaged_class_lists(fuzz):
    def attempt(rng, folder):
        path = folder / "classes.txt"
        path.write_bytes(mutated(rng.choice(LISTS), rng))
        try:
            classes = class_lists.read_class_list(path).classes
        except UserError as error:
            require_one_sentence(error)
            return
        assert 2 <= len(classes) == len({label_class.name for label_class in classes})
        for label_class in classes:
            assert label_class.name and all(0 <= value <= 255 for value in label_class.color)

    fuzz(attempt, tries=300)
