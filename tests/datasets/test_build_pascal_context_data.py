import numpy as np
import pytest

from datasets import build_pascal_context_data
from deeplab_tf.data import catalog
from deeplab_tf.messages import UserError
from tests import trees

# Numbers of the 59 classes among the release's 459 labels, in the order of their names.
LABEL_IDS = [
    *(2, 9, 18, 19, 22, 23, 25, 31, 33, 34, 44, 45, 46, 59, 65, 68, 72, 80, 85, 98, 104, 105, 113),
    *(115, 144, 158, 159, 162, 187, 189, 207, 220, 232, 258, 259, 260, 284, 295, 296, 308, 324),
    *(326, 347, 349, 354, 355, 360, 366, 368, 397, 415, 416, 420, 424, 427, 440, 445, 454, 458),
]


@pytest.fixture
def raw(tmp_path):
    trees.pascal_context(tmp_path)
    return tmp_path


def build(raw, labels_dir="trainval", **settings):
    build_pascal_context_data.main(
        build_pascal_context_data.PascalContextConfig(
            voc2010_root=str(raw / "VOCdevkit/VOC2010"),
            labels_dir=str(raw / labels_dir),
            output_dir=str(raw / "out"),
            num_processes=1,
            **settings,
        )
    )


def labels(raw, split):
    return {name: label for name, (_, label) in trees.read_back(raw / "out", split).items()}


def test_459_labels_become_60_classes(raw):
    build(raw)
    found = labels(raw, "train")
    assert list(found) == trees.CONTEXT_SPLITS["train"]
    train_ids = [0] * 460
    for index, label_id in enumerate(LABEL_IDS):
        train_ids[label_id] = index + 1
    for name, label in found.items():
        np.testing.assert_array_equal(label, trees.label_of(train_ids, int(name[-1])))
    everything = np.concatenate([label.ravel() for label in found.values()])
    assert set(everything) == set(range(60))


def test_without_background_there_are_59(raw):
    build(raw, without_background=True)
    train_ids = [255] * 460
    for index, label_id in enumerate(LABEL_IDS):
        train_ids[label_id] = index
    label = labels(raw, "val")["2008_000003"]
    np.testing.assert_array_equal(label, trees.label_of(train_ids, 3))


@pytest.mark.parametrize(
    ("without_background", "expected"),
    [(False, [*range(60), 255]), (True, [255, *range(59), 255])],
)
def test_ready_60_way_masks_are_taken_as_they_are(raw, without_background, expected):
    root = raw / "VOCdevkit/VOC2010"
    (root / "ImageSets/Main").rename(root / "ImageSets/SegmentationContext")
    for path in (root / "JPEGImages").iterdir():
        label = trees.label_of([*range(60), 255], int(path.stem[-1]))
        trees.write_mask(root / f"SegmentationClassContext/{path.stem}.png", label, palette=True)
    labels_dir = "VOCdevkit/VOC2010/SegmentationClassContext"
    build(raw, labels_dir=labels_dir, without_background=without_background)
    label = labels(raw, "train")["2008_000001"]
    np.testing.assert_array_equal(label, trees.label_of(expected, 1))


def test_the_classes_are_in_alphabetical_order():
    names = catalog.load("pascal_context", "").class_names
    assert names[0] == "__background__" and names[1:] == sorted(names[1:]) and len(names) == 60
    assert catalog.load("pascal_context_59", "").class_names == names[1:]


@pytest.mark.parametrize(
    ("gone", "message"),
    [
        ("VOCdevkit", "VOCtrainval_03-May-2010.tar.*--voc2010_root"),
        ("trainval", "pascal-context/trainval.tar.gz.*--labels_dir"),
        ("trainval/2008_000003.mat", "trainval/2008_000003.mat does not exist"),
    ],
)
def test_a_missing_part_says_what_to_fetch(raw, gone, message):
    (raw / gone).rename(raw / "gone")
    with pytest.raises(UserError, match=message):
        build(raw)
    assert not (raw / "out").exists()


def test_another_mat_file_is_refused(raw):
    import scipy.io

    scipy.io.savemat(raw / "trainval/2008_000000.mat", {"Other": np.zeros([3, 3])})
    with pytest.raises(UserError, match=r"2008_000000\.mat cannot be read.*LabelMap"):
        build(raw)
    label = trees.label_of(range(460), 0) + 0.5
    scipy.io.savemat(raw / "trainval/2008_000000.mat", {"LabelMap": label})
    with pytest.raises(UserError, match=r"2008_000000\.mat holds float64.*not a label"):
        build(raw)
