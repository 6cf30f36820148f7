import functools
import json

import numpy as np
import pytest
from PIL import Image

from deeplab_tf.conversion import building, workers
from deeplab_tf.conversion.encoding import FilePair, encode_pair
from deeplab_tf.conversion.masks import MaskCoding
from deeplab_tf.conversion.split_report import SplitFacts
from deeplab_tf.data import catalog
from deeplab_tf.data.image_kinds import ValueCounts
from deeplab_tf.messages import UserError

INFO = catalog.DatasetInfo(
    name="four",
    classes=tuple(catalog.LabelClass(name, (0, 0, 0)) for name in ("sky", "road", "car", "bus")),
)
CODING = MaskCoding(num_classes=4, ignore_label=255)
# Pixels of sky, road, car, bus and ignored: 4 1 0 0 1, 0 6 0 0 0, 0 0 0 0 6, 2 2 2 0 0.
MASKS = (
    [[0, 0, 0], [0, 1, 255]],
    [[1, 1, 1], [1, 1, 1]],
    [[255, 255, 255], [255, 255, 255]],
    [[0, 0, 1], [1, 2, 2]],
)
TABLE = """\
pixels                   train       %            val       %
sky                          4   36.36              2   33.33
road                         7   63.64              2   33.33
car                          0       -              2   33.33
bus                          0       -              0       -
-------------------------------------------------------------
ignored, of all              7   38.89              0       -
"""


def files(folder, masks, images=None):
    """Writes masks, and plain images of their sizes unless there are others; returns the pairs."""
    found = []
    for number, values in enumerate(masks):
        mask = Image.fromarray(np.array(values, np.uint8))
        pair = FilePair(f"n{number}", folder / f"{number}.png", folder / f"{number}m.png")
        mask.save(pair.mask_path)
        image = images[number] if images else Image.new("RGB", mask.size)
        image.save(pair.image_path, exif=image.getexif())
        found.append(pair)
    return found


def convert(splits, folder, info=INFO, coding=CODING, **settings):
    encode = functools.partial(encode_pair, coding=coding, **settings)
    building.convert_splits(
        splits, encode, output_dir=folder, info=info, num_shards=3, num_processes=1
    )


def entries(folder):
    return json.loads((folder / "dataset.json").read_text())["splits"]


def test_pixels_are_counted_by_split_class_and_ignored(tmp_path, capsys):
    pairs = files(tmp_path, MASKS)
    convert({"train": pairs[:3], "val": pairs[3:]}, tmp_path / "out")
    assert entries(tmp_path / "out")["train"]["statistics"] == {
        "pixels": {"sky": 4, "road": 7, "car": 0, "bus": 0},
        "images_with": {"sky": 1, "road": 2, "car": 0, "bus": 0},
        "ignored_pixels": 7,
    }
    printed = capsys.readouterr()
    assert printed.out.endswith(TABLE)
    warnings = printed.err.splitlines()
    assert warnings == [
        "Warning: 1 of 4 classes occur nowhere (train, val): 'bus'; do the masks use 255, which is "
        "ignored, for it?",
        "Warning: 1 of 4 classes occur in other splits but not in train: 'car'.",
        warnings[2],
        "Warning: 1 image (the first: 'n2') without a pixel that counts: all have the ignored "
        "label.",
    ]
    assert warnings[2].startswith("Warning: 39 % of the pixels of train have the ignored label 255")


def test_a_resumed_and_a_second_build_report_the_same(tmp_path, capsys, monkeypatch):
    pairs = files(tmp_path, MASKS)
    convert({"all": pairs}, tmp_path / "straight")
    straight = capsys.readouterr()

    encode_all = workers.encode_all
    with monkeypatch.context() as patch:
        patch.setattr(workers, "encode_all", lambda *a, **k: broken(encode_all(*a, **k)))
        with pytest.raises(KeyboardInterrupt):
            convert({"all": pairs}, tmp_path / "out")
    convert({"all": pairs}, tmp_path / "out")
    resumed = capsys.readouterr()
    assert "2 of 3 shards are done already" in resumed.out
    convert({"all": pairs}, tmp_path / "out")
    second = capsys.readouterr()
    assert "is up to date" in second.out

    assert entries(tmp_path / "straight") == entries(tmp_path / "out")
    table = straight.out[straight.out.index("pixels") :]
    assert resumed.out.endswith(table) and second.out.endswith(table)
    assert straight.err == resumed.err == second.err != ""


def broken(outcomes):
    """Yields two outcomes and is then interrupted."""
    yield next(outcomes)
    yield next(outcomes)
    raise KeyboardInterrupt


def test_masks_of_0_and_255_are_refused_until_255_is_a_class(tmp_path, capsys):
    pairs = files(tmp_path, [[[0, 0], [0, 255]], [[0, 255], [255, 0]]])
    splits = {"train": pairs[:1], "val": pairs[1:]}
    with pytest.raises(UserError, match=r"All labels are 'sky' or ignored \(37\.5 %.*bus,255"):
        convert(splits, tmp_path / "out")
    assert not (tmp_path / "out").exists()

    own = MaskCoding(num_classes=4, ignore_label=254, index_map=(0, *[-1] * 254, 1))
    convert(splits, tmp_path / "out", coding=own)
    found = entries(tmp_path / "out")
    assert found["val"]["statistics"]["pixels"] == {"sky": 2, "road": 2, "car": 0, "bus": 0}


def test_a_split_of_one_class_is_built_if_others_hold_more(tmp_path):
    pairs = files(tmp_path, [MASKS[3], [[0, 255]]])
    convert({"train": pairs[:1]}, tmp_path / "out")
    convert({"val": pairs[1:]}, tmp_path / "out")
    assert entries(tmp_path / "out")["val"]["statistics"]["ignored_pixels"] == 1
    before = sorted(path.name for path in (tmp_path / "out").iterdir())
    with pytest.raises(UserError, match="All labels are 'sky' or ignored"):
        convert(
            {"train": files(tmp_path, [[[255]]]), "val": files(tmp_path, [[[255]]])},
            tmp_path / "out",
        )
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == before


@pytest.mark.parametrize(("ignore_label", "mask"), [(0, [[0, 1]]), (255, [[255, 1]]), (255, [[1]])])
def test_a_lonely_class_is_told(tmp_path, capsys, ignore_label, mask):
    info = catalog.DatasetInfo(name="x", classes=INFO.classes, ignore_label=ignore_label)
    coding = MaskCoding(num_classes=4, ignore_label=ignore_label)
    convert({"all": files(tmp_path, [mask])}, tmp_path / "out", info, coding)
    assert "Warning: 'road' is the only class that occurs" in capsys.readouterr().err


def test_an_ignored_class_counts_as_ignored(tmp_path, capsys):
    """As in the official ADE20K, whose class 0 of 151 is the ignored one."""
    info = catalog.DatasetInfo(name="zero", classes=INFO.classes, ignore_label=0)
    coding = MaskCoding(num_classes=4, ignore_label=0)
    convert({"all": files(tmp_path, [MASKS[3]])}, tmp_path / "out", info, coding)
    found = entries(tmp_path / "out")["all"]["statistics"]
    assert found["pixels"] == {"sky": 0, "road": 2, "car": 2, "bus": 0}
    assert found["ignored_pixels"] == 2
    assert "classes occur nowhere (all): 'bus'; do the masks use 0" in capsys.readouterr().err


def test_what_was_not_decoded_is_not_counted(tmp_path, capsys):
    pairs = files(tmp_path, [[[0, 255]], [[0, 0]]])
    convert({"all": pairs}, tmp_path / "out", verify="header")
    printed = capsys.readouterr()
    assert "all: pixels of the classes were not counted" in printed.out
    assert "sky" not in printed.out + printed.err
    entry = entries(tmp_path / "out")["all"]
    assert entry["uncounted_labels"] == 2


def test_images_without_labels_have_no_counts(tmp_path, capsys):
    pairs = [FilePair(p.name, p.image_path, None) for p in files(tmp_path, MASKS)]
    convert({"test": pairs}, tmp_path / "out")
    printed = capsys.readouterr()
    assert printed.out == f"{tmp_path / 'out'}: split test, 4 images.\n" and not printed.err


def turned(size, orientation=6):
    image = Image.new("RGB", size)
    image.getexif()[0x0112] = orientation
    return image


def test_images_that_are_turned_or_lose_a_channel_are_told(tmp_path, capsys):
    images = [turned((2, 3)), Image.new("RGBA", (3, 2)), turned((3, 2)), turned((3, 2), 3)]
    pairs = files(tmp_path, MASKS, images)
    convert({"train": pairs[:2], "val": pairs[2:]}, tmp_path / "out")
    warnings = capsys.readouterr().err
    for told in (
        "1 image (the first: 'n0') turned as the EXIF data say; --exif_orientation=ignore",
        "1 image (the first: 'n3') turned as the EXIF data say, though the mask fits",
        "1 image (the first: 'n2') not turned",
        "1 image (the first: 'n1') with channels other than red, green and blue",
    ):
        assert f"Warning: {told}" in warnings
    assert "wherever the sizes tell" not in warnings
    convert({"val": pairs[2:]}, tmp_path / "out")
    assert "Warning: wherever the sizes tell, the masks were drawn on unturned images" in (
        capsys.readouterr().err
    )


def test_counts_of_values_that_a_later_version_adds_to_are_read():
    facts = SplitFacts.none(INFO)
    facts.image_values = ValueCounts(total=9, clipped=1, largest=7)
    content = facts.to_json(INFO)
    content["image_values"]["smallest"] = 0
    assert SplitFacts.from_json(content).image_values == (9, 1, 7)
