import errno
import functools
import itertools
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from deeplab_tf import files
from deeplab_tf.conversion import building, encoding, masks, workers
from deeplab_tf.conversion.encoding import FilePair
from deeplab_tf.data import catalog, records
from deeplab_tf.messages import UserError

INFO = catalog.DatasetInfo(
    name="pair",
    classes=(catalog.LabelClass("a", (0, 0, 0)), catalog.LabelClass("b", (9, 9, 9))),
    splits={"train": 6},
)
CODING = masks.MaskCoding(num_classes=2, ignore_label=255)


@pytest.fixture
def pairs(tmp_path):
    """Six images of 4x3 pixels with the value of their number."""
    found = []
    for number in range(6):
        pair = FilePair(f"n{number}", tmp_path / f"{number}.png", tmp_path / f"{number}m.png")
        Image.fromarray(np.full([3, 4, 3], number, np.uint8)).save(pair.image_path)
        Image.fromarray(np.full([3, 4], number % 2, np.uint8)).save(pair.mask_path)
        found.append(pair)
    return found


def convert(pairs, folder, num_shards=3, info=INFO, split="train", **settings):
    building.convert_split(
        pairs,
        functools.partial(encoding.encode_pair, coding=CODING),
        output_dir=folder,
        info=info,
        split=split,
        num_shards=num_shards,
        **settings,
    )


def names(folder, split="train"):
    table = records.open_split(folder, split, INFO)
    found = [records.parse(table.read(index))["name"].numpy() for index in range(len(table))]
    return [name.decode() for name in found]


def content(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize(("count", "num_shards", "expected"), [(3, 8, [1, 1, 1]), (5, 2, [2, 3])])
def test_no_shard_is_empty(pairs, tmp_path, count, num_shards, expected):
    convert(pairs[:count], tmp_path / "out", num_shards, num_processes=1)
    shards = catalog.read_manifest(tmp_path / "out")["splits"]["train"]["shards"]
    assert [shard["images"] for shard in shards] == expected


def test_several_processes_write_the_same_bytes_in_the_same_order(pairs, tmp_path):
    convert(pairs, tmp_path / "one", num_processes=1)
    convert(pairs, tmp_path / "two", num_processes=2)
    assert content(tmp_path / "one") == content(tmp_path / "two")
    assert names(tmp_path / "two") == [f"n{number}" for number in range(6)]


def test_the_manifest_records_where_the_split_came_from(pairs, tmp_path):
    convert(pairs, tmp_path / "out", num_processes=1)
    convert(pairs, tmp_path / "copy", num_shards=2, num_processes=1)
    entry, copy = (catalog.read_manifest(tmp_path / f)["splits"]["train"] for f in ("out", "copy"))
    assert (entry["images"], entry["published_images"], entry["labelled"]) == (6, 6, True)
    assert entry["builder"].startswith("build_folder_data ")
    assert entry["sha256"] == copy["sha256"]  # of the files, whatever the shards
    pairs[3].image_path.write_bytes(pairs[2].image_path.read_bytes())
    convert(pairs, tmp_path / "copy", num_shards=2, num_processes=1)
    assert catalog.read_manifest(tmp_path / "copy")["splits"]["train"]["sha256"] != entry["sha256"]


def test_a_corrupt_file_stops_the_build_and_the_old_split_stays(pairs, tmp_path):
    convert(pairs, tmp_path / "out", num_processes=1)
    before = content(tmp_path / "out")
    pairs[0].image_path.write_bytes(b"cut")
    with pytest.raises(UserError, match="0.png cannot be decoded"):
        convert(pairs, tmp_path / "out", num_processes=1)
    assert content(tmp_path / "out") == before
    with pytest.raises(UserError, match="0.png cannot be decoded"):
        convert(pairs, tmp_path / "new", num_processes=2)
    assert not (tmp_path / "new").exists()


def test_an_interrupted_build_goes_on_with_the_shards_that_are_not_done(
    pairs, tmp_path, monkeypatch, capsys
):
    good = pairs[5].image_path.read_bytes()
    pairs[5].image_path.write_bytes(b"cut")
    with pytest.raises(UserError, match="5.png"):
        convert(pairs, tmp_path / "out", num_processes=1)
    assert not list((tmp_path / "out").glob("*.tfrecord*"))  # nothing to mistake for the split
    assert not list((tmp_path / "out").rglob("*.part"))
    pairs[5].image_path.write_bytes(good)
    seen = []
    encode_all = workers.encode_all

    def spy(pairs, *args, **settings):
        seen.extend(pair.name for pair in pairs)
        return encode_all(pairs, *args, **settings)

    monkeypatch.setattr(workers, "encode_all", spy)
    convert(pairs, tmp_path / "out", num_processes=1)
    assert seen == ["n4", "n5"] and "2 of 3 shards are done already" in capsys.readouterr().out
    convert(pairs, tmp_path / "whole", num_processes=1)
    assert [*content(tmp_path / "out")] == [*content(tmp_path / "whole")]
    first, second = content(tmp_path / "out"), content(tmp_path / "whole")
    del first["dataset.json"], second["dataset.json"]
    assert first == second and names(tmp_path / "out") == [f"n{number}" for number in range(6)]


def test_bad_files_are_skipped_and_listed_on_demand(pairs, tmp_path, capsys):
    pairs[1].image_path.write_bytes(b"cut")
    Image.fromarray(np.full([3, 4], 7, np.uint8)).save(pairs[4].mask_path)
    convert(pairs, tmp_path / "out", num_processes=2, skip_bad=True)
    entry = catalog.read_manifest(tmp_path / "out")["splits"]["train"]
    assert [bad["name"] for bad in entry["skipped"]] == ["n1", "n4"]
    assert "1.png cannot be decoded" in entry["skipped"][0]["reason"]
    assert "4m.png holds the value 7" in capsys.readouterr().out
    assert names(tmp_path / "out") == ["n0", "n2", "n3", "n5"] and entry["images"] == 4


def test_a_split_of_bad_files_alone_is_an_error(pairs, tmp_path):
    for pair in pairs:
        pair.image_path.write_bytes(b"cut")
    with pytest.raises(UserError, match="No image of the split 'train' could be converted"):
        convert(pairs, tmp_path / "out", num_processes=1, skip_bad=True)
    assert not (tmp_path / "out").exists()


def test_an_image_that_is_listed_twice_is_refused(pairs, tmp_path):
    with pytest.raises(UserError, match="has 'n2' twice"):
        convert([*pairs, pairs[2]], tmp_path / "out")
    (tmp_path / "train.txt").write_text("a\nb\na\n")
    with pytest.raises(UserError, match=r"train\.txt has 'a' twice"):
        building.read_list(tmp_path / "train.txt", "")


def test_building_again_with_other_shards_removes_the_old_ones(pairs, tmp_path):
    convert(pairs, tmp_path / "out", num_shards=3, num_processes=1)
    convert(pairs, tmp_path / "out", num_shards=2, num_processes=1)
    found = sorted(path.name for path in (tmp_path / "out").glob("*.tfrecord"))
    assert found == ["train-00000-of-00002.tfrecord", "train-00001-of-00002.tfrecord"]


def test_another_data_sets_folder_is_refused(pairs, tmp_path):
    convert(pairs, tmp_path / "out", num_processes=1)
    other = catalog.DatasetInfo(name="pair", classes=INFO.classes[::-1])
    with pytest.raises(UserError, match="classes differ: class 0 is .a. there, .b. here"):
        convert(pairs, tmp_path / "out", info=other, split="val")


def test_images_without_labels_are_recorded_as_such(pairs, tmp_path):
    unlabelled = [FilePair(pair.name, pair.image_path, None) for pair in pairs]
    convert(unlabelled, tmp_path / "out", split="test", num_processes=1)
    with pytest.raises(UserError, match="'test' in .* has no labels"):
        records.open_split(tmp_path / "out", "test", INFO)
    table = records.open_split(tmp_path / "out", "test", INFO, labelled=False)
    record = records.parse(table.read(5))
    np.testing.assert_array_equal(record["image"], np.full([3, 4, 3], 5))
    assert record["label"].shape == (0, 0, 1)
    entry = json.loads((tmp_path / "out" / "dataset.json").read_text())["splits"]["test"]
    assert not entry["labelled"] and entry["published_images"] is None


def test_a_build_of_other_files_does_not_reuse_unfinished_shards(pairs, tmp_path):
    good = pairs[5].image_path.read_bytes()
    pairs[5].image_path.write_bytes(b"cut")
    with pytest.raises(UserError):
        convert(pairs, tmp_path / "out", num_processes=1)
    pairs[5].image_path.write_bytes(good)
    Image.fromarray(np.full([3, 4, 3], 99, np.uint8)).save(pairs[0].image_path)
    convert(pairs, tmp_path / "out", num_processes=1)
    record = records.parse(records.open_split(tmp_path / "out", "train", INFO).read(0))
    np.testing.assert_array_equal(record["image"], np.full([3, 4, 3], 99))


@pytest.mark.parametrize("damage", ["cut", "missing"])
def test_a_damaged_shard_is_built_again(pairs, tmp_path, damage):
    convert(pairs, tmp_path / "out", num_processes=1)
    before = content(tmp_path / "out")
    shard = tmp_path / "out" / "train-00001-of-00003.tfrecord"
    if damage == "cut":
        shard.write_bytes(b"")
    else:
        shard.unlink()
    convert(pairs, tmp_path / "out", num_processes=1)
    assert content(tmp_path / "out") == before


def test_other_settings_and_other_masks_build_anew(pairs, tmp_path, capsys):
    convert(pairs, tmp_path / "out", num_processes=1)
    first = catalog.read_manifest(tmp_path / "out")["splits"]["train"]
    swapped = masks.MaskCoding(num_classes=2, ignore_label=255, index_map=(1, 0))
    building.convert_split(
        pairs,
        functools.partial(encoding.encode_pair, coding=swapped),
        output_dir=tmp_path / "out",
        info=INFO,
        split="train",
        num_shards=3,
        num_processes=1,
    )
    record = records.parse(records.open_split(tmp_path / "out", "train", INFO).read(0))
    np.testing.assert_array_equal(record["label"][..., 0], np.ones([3, 4]))
    Image.fromarray(np.full([3, 4], 255, np.uint8)).save(pairs[0].mask_path)
    convert(pairs, tmp_path / "out", num_processes=1)
    assert catalog.read_manifest(tmp_path / "out")["splits"]["train"]["sha256"] != first["sha256"]
    assert "up to date" not in capsys.readouterr().out


def test_skipped_files_are_looked_at_again_without_skip_bad(pairs, tmp_path):
    pairs[1].image_path.write_bytes(b"cut")
    convert(pairs, tmp_path / "out", num_processes=1, skip_bad=True)
    with pytest.raises(UserError, match="1.png cannot be decoded"):
        convert(pairs, tmp_path / "out", num_processes=1)
    assert names(tmp_path / "out") == ["n0", "n2", "n3", "n4", "n5"]


@pytest.mark.parametrize("part", ["image_path", "mask_path"])
def test_a_file_that_could_not_be_read_is_tried_again(pairs, tmp_path, monkeypatch, capsys, part):
    """Unlike a damaged one: a passing fault of a network leaves size and time as they were."""
    pairs[4].image_path.write_bytes(b"cut")
    settings = {"num_processes": 1, "skip_bad": True}
    with monkeypatch.context() as patch:
        fail_to_read(patch, getattr(pairs[1], part))
        convert(pairs, tmp_path / "out", **settings)
        assert names(tmp_path / "out") == ["n0", "n2", "n3", "n5"]
        assert f"{getattr(pairs[1], part)} cannot be read: Stale" in capsys.readouterr().out
        convert(pairs, tmp_path / "out", **settings)
        assert "is up to date, 4 images" in capsys.readouterr().out  # the fault has not passed

    convert(pairs, tmp_path / "out", **settings)
    assert names(tmp_path / "out") == ["n0", "n1", "n2", "n3", "n5"]
    assert "up to date" not in capsys.readouterr().out
    convert(pairs, tmp_path / "out", **settings)
    assert "is up to date, 5 images" in capsys.readouterr().out


def test_an_interrupted_build_reads_again_what_could_not_be_read(
    pairs, tmp_path, monkeypatch, capsys
):
    settings = {"num_processes": 1, "skip_bad": True}
    encode_all = workers.encode_all

    def broken(*args, **kwargs):
        yield from itertools.islice(encode_all(*args, **kwargs), 5)
        raise KeyboardInterrupt

    pairs[3].image_path.write_bytes(b"cut")
    with monkeypatch.context() as patch:
        fail_to_read(patch, pairs[1].image_path)
        patch.setattr(workers, "encode_all", broken)
        with pytest.raises(KeyboardInterrupt):
            convert(pairs, tmp_path / "out", **settings)
    convert(pairs, tmp_path / "out", **settings)
    assert "train: 1 of 3 shards are done already" in capsys.readouterr().out  # the one of n3
    assert names(tmp_path / "out") == ["n0", "n1", "n2", "n4", "n5"]


def fail_to_read(patch, unreadable):
    read_bytes = files.read_bytes

    def failing(path, **settings):
        if path == unreadable:
            raise OSError(errno.ESTALE, "Stale file handle", str(path))
        return read_bytes(path, **settings)

    patch.setattr(files, "read_bytes", failing)


def test_two_builders_do_not_write_to_one_folder(pairs, tmp_path):
    with (
        files.sole_writer(tmp_path / "out", busy=""),
        pytest.raises(UserError, match="Another builder is writing to .*out"),
    ):
        convert(pairs, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    convert(pairs, tmp_path / "out", num_processes=1)


def test_the_folder_of_a_run_is_refused(pairs, tmp_path):
    (tmp_path / "dataset.json").write_text(json.dumps(INFO.to_json()))
    with pytest.raises(UserError, match="is the folder of a run"):
        convert(pairs, tmp_path)
    (tmp_path / "dataset.json").write_bytes(b"[]")
    with pytest.raises(
        UserError, match="is damaged .its content is a list of .*object.; remove it"
    ):
        convert(pairs, tmp_path)


SLOW_BUILD = """
import functools, sys, time
from pathlib import Path
from deeplab_tf.conversion import building, encoding
from deeplab_tf.data import catalog
from tests.conversion import test_building

def slow(pair, coding):
    time.sleep(0.1)
    return encoding.encode_pair(pair, coding)

if __name__ == "__main__":
    folder = Path(sys.argv[1])
    pairs = [encoding.FilePair(f"n{i}", folder / f"{i}.png", folder / f"{i}m.png")
             for i in range(6)]
    pairs = [encoding.FilePair(f"{r}{p.name}", p.image_path, p.mask_path)
             for r in range(10) for p in pairs]
    encode = functools.partial(slow, coding=test_building.CODING)
    building.convert_split(pairs, encode, output_dir=folder / "out", info=test_building.INFO,
                           split="train", num_shards=30, num_processes=2)
"""


@pytest.mark.slow
def test_a_killed_build_leaves_no_process_and_goes_on(pairs, tmp_path):
    script = tmp_path / "slow_build.py"
    script.write_text(SLOW_BUILD)
    root = Path(__file__).parents[2]
    environment = os.environ | {"PYTHONPATH": str(root)}
    build = subprocess.Popen([sys.executable, script, tmp_path], env=environment)
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob("out/.train-building/*.json")):
        assert time.monotonic() < deadline and build.poll() is None
        time.sleep(0.05)
    build.kill()
    build.wait()
    assert not list((tmp_path / "out").glob("*.tfrecord"))
    while subprocess.run(["pgrep", "-f", str(script)], capture_output=True).stdout:
        assert time.monotonic() < deadline  # the children notice that their parent is gone
        time.sleep(0.05)
    done = subprocess.run(
        [sys.executable, script, tmp_path], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "of 30 shards are done already" in done.stdout
    assert len(names(tmp_path / "out")) == 60
