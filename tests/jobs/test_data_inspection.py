import collections
import json

import numpy as np
import pytest
from PIL import Image

from datasets import build_cityscapes_data
from deeplab_tf.config.programs import InspectConfig
from deeplab_tf.data import catalog
from deeplab_tf.data.statistics import Statistics
from deeplab_tf.evaluation import report
from deeplab_tf.jobs import data_inspection
from deeplab_tf.messages import UserError
from tests import trees
from tests.data import test_official_records as official_records


def test_the_report_counts_what_the_masks_hold(shapes_dir, records_dir, tmp_path, capsys):
    job = InspectConfig(dataset_dir=str(records_dir), output_dir=str(tmp_path))
    data_inspection.main(job)
    printed = capsys.readouterr().out
    found = json.loads((tmp_path / "statistics.json").read_text())
    built = catalog.read_manifest(records_dir)["splits"]
    for split in ("train", "val"):
        masks = [np.asarray(Image.open(p)) for p in (shapes_dir / "masks" / split).iterdir()]
        counts = np.bincount(np.concatenate([mask.ravel() for mask in masks]), minlength=256)
        assert list(found[split]["pixels"].values()) == counts[:7].tolist()
        assert found[split]["ignored_pixels"] == counts[255]
        assert built[split]["statistics"].items() <= found[split].items()
        holders = [sum((mask == index).any() for mask in masks) for index in range(7)]
        assert list(found[split]["images_with"].values()) == holders
        sizes = collections.Counter(f"{mask.shape[0]}x{mask.shape[1]}" for mask in masks)
        assert found[split]["sizes"] == sizes
        absent = [name for name, count in found[split]["pixels"].items() if not count]
        assert f"absent classes: {', '.join(absent) or 'none'}" in printed
        page = np.asarray(Image.open(tmp_path / f"{split}.png"))
        assert (page != 255).any() and page.shape[1] == 1280


def test_splits_without_labels_are_shown_too(tmp_path, capsys):
    trees.cityscapes(tmp_path)
    build_cityscapes_data.main(
        build_cityscapes_data.CityscapesConfig(
            cityscapes_root=str(tmp_path), output_dir=str(tmp_path / "out"), num_processes=1
        )
    )
    data_inspection.main(InspectConfig(dataset_dir=str(tmp_path / "out")))
    printed = capsys.readouterr().out
    assert "cityscapes: 19 classes" in printed and "no labels" in printed
    assert (tmp_path / "out/inspection/test_fine.png").is_file()
    with pytest.raises(UserError, match="no split 'all'; it has: test_fine, train_fine, val_fine"):
        data_inspection.main(InspectConfig(dataset_dir=str(tmp_path / "out"), splits=("all",)))


def test_a_folder_without_splits_is_refused(records_dir, tmp_path):
    info = catalog.load("", records_dir)
    (tmp_path / "dataset.json").write_text(json.dumps(info.to_json()))  # as a run has one
    with pytest.raises(UserError, match="lists no splits"):
        data_inspection.main(InspectConfig(dataset_dir=str(tmp_path)))
    assert [path.name for path in tmp_path.iterdir()] == ["dataset.json"]


def test_ignored_pixels_keep_the_images_color_even_if_their_label_is_a_class():
    image = np.full([20, 20, 3], 200, np.uint8)
    label = np.repeat(np.array([[0] * 10 + [1] * 10], np.uint8), 20, axis=0)
    colors = [(0, 0, 0), (0, 100, 0)]
    page = report.sample_page([("x", image, label)], ["other", "a"], colors, ignore_label=0)
    painted = np.asarray(page)[16:36, 322:342]
    np.testing.assert_array_equal(painted[:, :10], 200)
    np.testing.assert_array_equal(painted[0, 10], [100, 150, 100])


def test_class_weights_balance_by_the_median_frequency():
    # Class 0: 60 of the 75 pixels that count in the images it is in, class 1: 10 of 50, class 2:
    # 5 of 50, class 3 nowhere. Frequencies 0.8, 0.2, 0.1; median 0.2.
    counts = Statistics.none(4)
    for values in ([0] * 35 + [1] * 10 + [2] * 5, [0] * 25 + [255] * 25):
        counts.add((10, 5), np.array(values, np.uint8).reshape(10, 5), 255)
    np.testing.assert_allclose(counts.class_weights(), [1 / 4, 1, 2, 0])


def test_a_small_weight_is_not_rounded_to_none(records_dir, tmp_path, monkeypatch, capsys):
    """Two objects of 36 pixels each in a megapixel give the background 36 / 10^6."""
    weights = np.array([36 / (10**6 - 72), 1, 1, 0, 0, 0, 1.23456])
    monkeypatch.setattr(Statistics, "class_weights", lambda _: weights)
    job = InspectConfig(dataset_dir=str(records_dir), output_dir=str(tmp_path), splits=("val",))
    data_inspection.main(job)
    _, _, listed = capsys.readouterr().out.partition("median frequency balancing): ")
    assert listed.split()[0] == "3.6e-05,1.0,1.0,0.0,0.0,0.0,1.235"


@pytest.mark.parametrize(
    ("sizes", "crop"),
    [
        ({(1024, 2048): 5}, (512, 1024)),  # the ancestor's crop for Cityscapes
        ({(360, 480): 3}, (352, 480)),
        ({(375, 500): 5, (500, 375): 4}, (368, 496)),
        ({(5, 9): 1}, (16, 16)),
    ],
)
def test_crops_fit_the_median_image(sizes, crop):
    counts = Statistics.none(2)
    counts.sizes.update(sizes)
    assert counts.crop_size() == crop


def test_records_without_description_are_inspected_by_their_name(tmp_path, capsys):
    """A subset of a known data set is reported with a warning, and nothing is refused."""
    label = np.array([[0, 20, 255]], np.uint8)
    official_records.write_split(tmp_path, "train_aug", label, label)
    official_records.write_split(tmp_path, "val", label)
    data_inspection.main(InspectConfig(dataset_dir=str(tmp_path), dataset="pascal_voc_seg"))
    written = capsys.readouterr()
    for split, count, published in (("train_aug", "2 images", 10582), ("val", "1 image", 1449)):
        assert f"Warning: {split} has {count}, the published set {published}." in written.err
    assert "pascal_voc_seg: 21 classes, ignored label 255" in written.out
    found = json.loads((tmp_path / "inspection/statistics.json").read_text())
    assert found["train_aug"]["ignored_pixels"] == 2 and found["val"]["images"] == 1
    assert (tmp_path / "inspection/train_aug.png").is_file()


def test_own_records_without_description_are_inspected_by_their_classes(tmp_path, capsys):
    official_records.write_split(tmp_path / "own", "train", np.array([[0, 1, 2]], np.uint8))
    job = InspectConfig(dataset_dir=str(tmp_path / "own"), num_classes=3, ignore_label=2)
    data_inspection.main(job)
    written = capsys.readouterr()
    assert "classes_3: 3 classes, ignored label 2" in written.out and not written.err
    found = json.loads((tmp_path / "own/inspection/statistics.json").read_text())
    assert found["train"]["ignored_pixels"] == 1
