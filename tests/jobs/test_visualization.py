import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from datasets import build_cityscapes_data
from deeplab_tf.config import DataConfig
from deeplab_tf.config.programs import VisConfig
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
    assert painted == {f"{name}_{kind}.png" for name in names for kind in kinds}
    label_ids = np.array([7, 8, 11, 12, 13, 17, *range(19, 29), 31, 32, 33])
    for name in names:
        train_ids, ids = (
            np.asarray(Image.open(tmp_path / f"vis{i}/raw_segmentation_results/{name}.png"))
            for i in (0, 1)
        )
        np.testing.assert_array_equal(ids, label_ids[train_ids])
        assert ids.dtype == np.uint8 and ids.shape == trees.SIZES[int(name[12])]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ((b"/data/a.jpg", b"", b"sub/b"), ""),
        ((b"../../a",), r"can have the name '\.\./\.\./a': it leads out of the folder"),
        ((b"a", b"/a"), "Two records of train have the name '/a'"),
    ],
)
def test_pictures_stay_in_their_folder_whatever_records_are_called(
    tmp_path, monkeypatch, names, message
):
    odd_records.split(tmp_path, *(odd_records.record(name=name) for name in names))
    experiment = SimpleNamespace(data=DataConfig(dataset_dir=str(tmp_path)), eval=None)
    loaded = SimpleNamespace(model=None, step=0, dataset_at=lambda folder: odd_records.INFO)
    monkeypatch.setattr(
        visualization.loaded_run, "load_asked", lambda *choice: (loaded, experiment)
    )
    labels = SimpleNamespace(numpy=lambda: [odd_records.IDS])
    nothing = SimpleNamespace(labels=lambda images: labels)
    monkeypatch.setattr(visualization, "build_predictor", lambda *settings: nothing)
    job = VisConfig(
        checkpoint_dir="run",
        vis_logdir=str(tmp_path / "x/y/vis"),
        vis_split="train",
        also_save_raw_predictions=True,
    )
    if message:
        with pytest.raises(UserError, match=message):
            visualization.main(job)
    else:
        visualization.main(job)

    written = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.png")}
    assert all(path.startswith("x/y/vis/") for path in written)
    if not message:
        raw = {path for path in written if "/raw_" in path}
        expected = ("first", "data/a.jpg", "record_2", "sub/b", "last")
        assert raw == {f"x/y/vis/raw_segmentation_results/{name}.png" for name in expected}
        assert len(written) == 5 * 5
