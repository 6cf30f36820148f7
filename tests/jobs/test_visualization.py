import csv
import dataclasses
import json
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from datasets import build_cityscapes_data
from deeplab_tf.config import DataConfig
from deeplab_tf.config.pictures import USUAL, PictureConfig
from deeplab_tf.config.programs import VisConfig
from deeplab_tf.data import catalog
from deeplab_tf.jobs import visualization
from deeplab_tf.messages import UserError
from deeplab_tf.training.trainer import Trainer
from tests import trees
from tests.data import test_record_checks as odd_records


def test_predictions_for_a_benchmark_server_hold_label_ids(tiny_experiment, tmp_path):
    """Cityscapes: train ids 0..18 go back to 7, 8, 11, ..., 33, for a split without labels."""
    trees.cityscapes(tmp_path)
    build_cityscapes_data.main(
        build_cityscapes_data.CityscapesConfig(
            cityscapes_root=str(tmp_path), output_dir=str(tmp_path / "out"), num_processes=1
        )
    )
    data = dataclasses.replace(
        tiny_experiment.data, dataset_dir=str(tmp_path / "out"), train_split="train_fine"
    )
    trainer = Trainer(dataclasses.replace(tiny_experiment, data=data))
    trainer.run_dir.checkpoints.save(trainer.checkpoint, 0, keep=1)  # ids need no trained model
    for raw_label_ids in (False, True):
        visualization.main(
            VisConfig(
                checkpoint_dir=tiny_experiment.train.train_logdir,
                vis_logdir=str(tmp_path / f"vis{raw_label_ids:d}"),
                vis_split="test_fine",
                also_save_raw_predictions=True,
                raw_label_ids=raw_label_ids,
            )
        )
    painted = {path.name for path in (tmp_path / "vis0/segmentation_results").iterdir()}
    names = ("berlin_000000_000019", "berlin_000002_000019")
    kinds = ("image", "prediction", "overlay")
    assert painted == {f"{number:06d}_{kind}.png" for number in range(2) for kind in kinds}
    rows = list(csv.reader((tmp_path / "vis0/names.csv").open()))
    assert rows[1:] == [[f"{i:06d}", names[i], f"{names[i]}.png"] for i in range(2)]
    label_ids = np.array([7, 8, 11, 12, 13, 17, *range(19, 29), 31, 32, 33])
    for name in names:
        train_ids, ids = (
            np.asarray(Image.open(tmp_path / f"vis{i}/raw_segmentation_results/{name}.png"))
            for i in (0, 1)
        )
        np.testing.assert_array_equal(ids, label_ids[train_ids])
        assert ids.dtype == np.uint8 and ids.shape == trees.SIZES[int(name[12])]


NAMES_AND_FILES = [
    (b"/data/a.jpg", "a.jpg"),
    (b"", "record_2"),
    (b"sub/b", "b"),
    (b"../../a", "a"),
    (b"../..", "000005"),
    (b"a", "a_000006"),
    (b"other/A", "A_000007"),  # some file systems ignore case
    (b"a_000006", "a_000006_000008"),
    (b"line\nend", "000009"),
    (b"\xff\xfe", r"\xff\xfe"),
    ("Straße/é".encode(), "é"),
    (b"x" * 300, "000012"),
]


def test_pictures_stay_in_their_folder_whatever_records_are_called(tmp_path, monkeypatch):
    names, files = zip(*NAMES_AND_FILES, strict=True)
    odd_records.split(tmp_path, *(odd_records.record(name=name) for name in names))
    experiment = SimpleNamespace(data=DataConfig(dataset_dir=str(tmp_path)), eval=None)
    loaded = SimpleNamespace(model=None, step=0, dataset_at=lambda folder: odd_records.INFO)
    monkeypatch.setattr(
        visualization.loaded_run, "load_asked", lambda *choice: (loaded, experiment)
    )
    labels = SimpleNamespace(numpy=lambda: [odd_records.IDS])
    nothing = SimpleNamespace(labels=lambda images: labels)
    monkeypatch.setattr(visualization, "build_predictor", lambda *settings: nothing)
    monkeypatch.setattr(visualization, "_tell_departures", lambda *settings: None)
    visualization.main(
        VisConfig(
            checkpoint_dir="run",
            vis_logdir=str(tmp_path / "x/y/vis"),
            vis_split="train",
            also_save_raw_predictions=True,
        )
    )
    vis = tmp_path / "x/y/vis"
    written = {path.relative_to(vis).as_posix() for path in vis.rglob("*.png")}
    assert written == {path.relative_to(vis).as_posix() for path in tmp_path.rglob("*.png")}
    expected = ["first", *files, "last"]
    raw = {path for path in written if path.startswith("raw_")}
    assert raw == {f"raw_segmentation_results/{name}.png" for name in expected}
    assert written - raw == {
        f"segmentation_results/{number:06d}_{kind}.png"
        for number in range(len(expected))
        for kind in ("image", "prediction", "overlay", "label")
    }
    rows = list(csv.reader((vis / "names.csv").open()))
    assert [row[2] for row in rows[1:]] == [f"{name}.png" for name in expected]
    assert [row[1] for row in rows[2:4]] == ["/data/a.jpg", "record_2"]


@pytest.mark.parametrize(
    ("dataset", "colormap", "message"),
    [
        ("pascal_voc_seg", "pascal", ""),
        ("cityscapes", "cityscapes", ""),
        ("ade20k", "ade20k", ""),
        ("ade20k_151", "ade20k", ""),
        ("camvid", "", ""),
        ("camvid", "pascal", "colormap_type=pascal has other colours than .*camvid; leave it out"),
        ("cityscapes", "pascal", "or give --colormap_type=cityscapes"),
    ],
)
def test_the_colour_table_must_be_that_of_the_data_set(monkeypatch, dataset, colormap, message):
    told = []
    monkeypatch.setattr(
        visualization.loaded_run, "tell_departures", lambda *_, **values: told.append(values)
    )
    loaded = SimpleNamespace(info=catalog.KNOWN[dataset]())
    job = VisConfig(checkpoint_dir="run", vis_logdir="vis", colormap_type=colormap)
    if message:
        with pytest.raises(UserError, match=message):
            visualization._tell_departures(job, loaded, None)
    else:
        visualization._tell_departures(job, loaded, None)
        assert told == [{"colormap_type": colormap}]


@pytest.fixture
def labelled(tmp_path, monkeypatch):
    """A split of three labelled images, and a model that predicts the same for all."""
    odd_records.split(tmp_path, odd_records.record())
    experiment = SimpleNamespace(data=DataConfig(dataset_dir=str(tmp_path)), eval=None)
    loaded = SimpleNamespace(model=None, step=0, dataset_at=lambda folder: odd_records.INFO)
    monkeypatch.setattr(
        visualization.loaded_run, "load_asked", lambda *choice: (loaded, experiment)
    )
    ids = odd_records.IDS
    probabilities = np.full([*ids.shape, odd_records.INFO.num_classes], 0.25, np.float32)
    both = [
        SimpleNamespace(numpy=lambda values=values: [values]) for values in (ids, probabilities)
    ]
    model = SimpleNamespace(
        labels=lambda images: both[0], labels_and_probabilities=lambda images: both
    )
    monkeypatch.setattr(visualization, "build_predictor", lambda *settings: model)
    monkeypatch.setattr(visualization, "_tell_departures", lambda *settings: None)
    return tmp_path


def paint(folder, *, pictures=USUAL, **settings):
    job = VisConfig(
        checkpoint_dir="run", vis_logdir=str(folder / "vis"), vis_split="train", **settings
    )
    visualization.main(job, pictures)
    return folder / "vis"


EVERYTHING = PictureConfig(
    legend=True,
    side_by_side=True,
    save_areas=True,
    save_probabilities=("npz", "png"),
    save_polygons=("coco", "labelme"),
)


def test_more_pictures_lie_beside_the_others(labelled):
    kinds = {
        *(f"{kind}.png" for kind in ("image", "prediction", "overlay", "label")),
        *(f"{kind}.png" for kind in ("legend", "side_by_side", "errors", "confidence")),
        *("probabilities.npz", "labelme.json"),
    }
    vis = paint(
        labelled,
        error_map="class",
        pictures=EVERYTHING,
    )
    written = {path.name for path in (vis / "segmentation_results").iterdir()}
    numbers = {name[:6] for name in written}
    assert written == {f"{number}_{kind}" for number in numbers for kind in kinds}
    rows = list(csv.DictReader((vis / "areas.csv").open()))
    images = {f"{number}_image.png" for number in numbers}
    assert {row["image"] for row in rows} == images
    coco = json.loads((vis / "coco.json").read_text())
    assert {image["file_name"] for image in coco["images"]} == images
    labelme = json.loads((vis / "segmentation_results/000000_labelme.json").read_text())
    assert labelme["imagePath"] == "000000_image.png"


def test_errors_cannot_be_painted_without_labels(labelled):
    unlabelled = odd_records.record(label=b"")
    odd_records.split(labelled, unlabelled)
    with pytest.raises(UserError, match="--error_map=red compares with labels, and '.*' of the"):
        paint(labelled, error_map="red")


def contents(folder):
    """The content of each file below a folder."""
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_same_images_are_painted_again_and_more_after_them(labelled):
    vis = paint(labelled, max_number_of_images=2)
    before = contents(vis)
    paint(labelled, max_number_of_images=2)
    assert contents(vis) == before
    paint(labelled, pictures=PictureConfig(legend=True, save_areas=True))
    rows = list(csv.reader((vis / "names.csv").open()))
    assert [row[:2] for row in rows[1:]] == [
        ["000000", "first"],
        ["000001", "odd"],
        ["000002", "last"],
    ]
    assert (vis / "segmentation_results/000002_legend.png").exists()


@pytest.mark.parametrize(
    ("pictures", "earlier", "left"),
    [
        (PictureConfig(save_areas=True), {}, "areas.csv of"),
        (PictureConfig(save_polygons=("coco",)), {}, "coco.json of"),
        (
            PictureConfig(legend=True),
            {},
            "segmentation_results/000000_legend.png and 2 other files",
        ),
        (PictureConfig(save_probabilities=("npz",)), {}, ".*000000_probabilities.npz and 2"),
        (USUAL, {"error_map": "red"}, ".*000000_errors.png and 2"),
        (USUAL, {"also_save_raw_predictions": True}, "raw_segmentation_results/first.png and 2"),
    ],
)
def test_files_that_would_not_be_written_again_are_refused(labelled, pictures, earlier, left):
    vis = paint(labelled, pictures=pictures, **earlier)
    before = contents(vis)
    with pytest.raises(UserError, match=f"^--vis_logdir=.*/vis holds {left}.*earlier call's flags"):
        paint(labelled)
    assert contents(vis) == before
    paint(labelled, pictures=EVERYTHING, **earlier)  # the way out


def test_pictures_of_other_images_are_refused(labelled):
    vis = paint(labelled)
    before = contents(vis)
    with pytest.raises(UserError, match="000002_image.png and 3 other files of an earlier call"):
        paint(labelled, max_number_of_images=2)
    odd_records.split(labelled, odd_records.record(name=b""))
    with pytest.raises(
        UserError, match="holds pictures of other images: 000001 would be record_1, .* 000001,odd; "
    ):
        paint(labelled)
    (vis / "names.csv").write_text("")  # it names no image, but all pictures are replaced
    paint(labelled)
    assert contents(vis).keys() == before.keys()


def test_names_of_raw_predictions_are_those_of_files(labelled):
    vis = paint(labelled)
    rows = list(csv.DictReader((vis / "names.csv").open()))
    assert [row["raw_prediction"] for row in rows] == ["", "", ""]
    paint(labelled, also_save_raw_predictions=True)
    rows = list(csv.DictReader((vis / "names.csv").open()))
    written = {path.name for path in (vis / "raw_segmentation_results").iterdir()}
    assert {row["raw_prediction"] for row in rows} == written and len(written) == 3
