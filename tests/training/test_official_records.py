"""Runs on records without dataset.json: what the run stores is enough for all other programs."""

import dataclasses

import numpy as np
import pytest

from deeplab_tf.config import ModelConfig
from deeplab_tf.data import records
from deeplab_tf.messages import UserError
from deeplab_tf.runs import loaded_run
from deeplab_tf.training.trainer import Trainer
from tests.data import test_official_records as official_records

LABELS = [np.tile(np.arange(40, dtype=np.uint8) // 20 + shift, (40, 1)) for shift in (0, 1)] * 2


def start(experiment, tmp_path, split="train", **data):
    """Starts a run on the records in tmp_path/records, and saves it untrained."""
    data = dataclasses.replace(
        experiment.data, dataset_dir=str(tmp_path / "records"), train_split=split, **data
    )
    train = dataclasses.replace(experiment.train, eval_interval_steps=0)
    trainer = Trainer(dataclasses.replace(experiment, data=data, train=train))
    trainer.run_dir.checkpoints.save(trainer.checkpoint, 0, keep=1)
    return loaded_run.load(train.train_logdir)


def test_a_run_on_own_records_knows_its_classes(tiny_experiment, tmp_path):
    official_records.write_split(tmp_path / "records", "train", *LABELS)
    (tmp_path / "classes.txt").write_text("ground\nroof\nroad\n")
    loaded = start(
        tiny_experiment, tmp_path, class_list=str(tmp_path / "classes.txt"), ignore_label=2
    )
    (tmp_path / "classes.txt").unlink()
    for info in (loaded.info, loaded.dataset_at(str(tmp_path / "records"))):
        assert info.class_names == ["ground", "roof", "road"] and info.ignore_label == 2
    assert loaded.experiment.data.class_list == str(tmp_path / "classes.txt")
    assert len(records.open_split(tmp_path / "records", "train", loaded.info)) == 4


def test_a_run_on_official_ade20k_has_official_classes(tiny_experiment, tmp_path):
    official_records.write_split(tmp_path / "records", "train", *LABELS)
    loaded = start(tiny_experiment, tmp_path, dataset="ade20k")
    info = loaded.dataset_at(str(tmp_path / "records"))
    assert (info.num_classes, info.ignore_label, info.class_names[0]) == (151, 0, "other")
    assert loaded.model.num_classes == 151


def test_a_model_of_150_classes_is_not_scored_on_official_labels(tiny_experiment, tmp_path):
    official_records.write_split(tmp_path / "records", "train", *LABELS)
    loaded = start(tiny_experiment, tmp_path, dataset="ade20k", num_classes=150)
    assert loaded.dataset_at(str(tmp_path / "records")).ignore_label == 255  # the run was told

    official_records.write_split(tmp_path / "others", "train", *LABELS)
    with pytest.raises(UserError, match="no dataset.json, so it is taken for ade20k_151.* 150 of"):
        loaded.dataset_at(str(tmp_path / "others"))


def test_official_splits_are_trained_under_both_names(tiny_experiment, tmp_path):
    official_records.write_split(tmp_path / "records", "train_aug", *LABELS)
    loaded = start(tiny_experiment, tmp_path, "trainaug", dataset="pascal_voc_seg")
    assert loaded.info.name == "pascal_voc_seg"


@pytest.mark.parametrize(
    ("variant", "place"),
    # Images of 40x40 in crops of 45x45; 5 // 2 = 2.
    [("mobilenet_v2", np.s_[0:40, 0:40]), ("resnet_v1b_18", np.s_[2:42, 2:42])],
)
def test_small_images_are_padded_as_the_owner_of_the_model_does(
    tiny_experiment, tmp_path, variant, place
):
    official_records.write_split(tmp_path / "records", "train", *LABELS)
    data = dataclasses.replace(
        tiny_experiment.data,
        dataset="ade20k",
        dataset_dir=str(tmp_path / "records"),
        train_crop_size=(45, 45),
        min_scale_factor=1.0,
        max_scale_factor=1.0,
    )
    model = ModelConfig(model_variant=variant)
    trainer = Trainer(dataclasses.replace(tiny_experiment, data=data, model=model))
    images, labels = trainer._first_batch()

    covered = np.zeros([45, 45], bool)
    covered[place] = True
    assert images.shape[1:] == (45, 45, 3)
    assert (labels[:, ~covered] == trainer.info.ignore_label).all()
    assert np.allclose(images[:, ~covered], model.image_mean)
    assert not np.isclose(images[:, covered], model.image_mean).all(axis=-1).any()
