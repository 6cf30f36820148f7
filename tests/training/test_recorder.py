"""What TensorBoard gets, read by TensorBoard's own reader."""

import numpy as np
import pytest
import tensorflow as tf
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from deeplab_tf.data.catalog import DatasetInfo, LabelClass
from deeplab_tf.evaluation.evaluator import Evaluation
from deeplab_tf.evaluation.metrics import scores
from deeplab_tf.runs.run_dir import RunDir
from deeplab_tf.training.recorder import Recorder
from deeplab_tf.training.trackers import Tracker

NAMES = ("wall", "door | gate", "never there")
INFO = DatasetInfo(name="rooms", classes=tuple(LabelClass(name, (0, 0, 0)) for name in NAMES))


class Notes(Tracker):
    """Keeps what a tracker is told."""

    def __init__(self):
        self.told = {}

    def _log(self, step, values):
        self.told |= {(step, name): value for name, value in values.items()}


@pytest.fixture
def recorded(tmp_path):
    """The events of a run of one logged step and one validation, and what its tracker got."""
    writer, notes = tf.summary.create_file_writer(str(tmp_path)), Notes()
    recorder = Recorder(RunDir(tmp_path), writer, notes)
    recorder.recipe({"class_list": "a|b.txt", "seed": "7"}, step=0)
    recorder.training(10, {"loss": 0.5, "gradient_norm": 2.0})
    # IoU: wall 6 / (6 + 2 + 1), door 3 / (3 + 1 + 2); the third class does not occur.
    matrix = np.array([[6, 2, 0], [1, 3, 0], [0, 0, 0]])
    result = Evaluation("val", 4, matrix, scores(matrix))
    recorder.validation(result.to_json(INFO, 20), result, INFO)
    writer.close()
    events = EventAccumulator(str(tmp_path), size_guidance={"tensors": 0})
    return events.Reload(), notes.told


def value(events, tag):
    (event,) = events.Tensors(tag)
    return event.step, tf.make_ndarray(event.tensor_proto)


def test_each_value_has_its_tag_and_step(recorded):
    events, told = recorded
    expected = {
        "train/loss": (10, 0.5),
        "train/gradient_norm": (10, 2.0),
        "eval/miou": (20, (6 / 9 + 3 / 6) / 2),
        "eval/pixel_accuracy": (20, 9 / 12),
        "eval/iou/wall": (20, 6 / 9),
        "eval/iou/door | gate": (20, 3 / 6),
    }
    for tag, (step, number) in expected.items():
        assert value(events, tag) == (step, pytest.approx(number)), tag
        assert told[step, tag] == pytest.approx(number)
    assert not [tag for tag in events.Tags()["tensors"] if "never there" in tag]


def test_the_settings_are_a_table_and_the_confusion_matrix_a_picture(recorded):
    events, _ = recorded
    step, text = value(events, "experiment.flags")
    rows = text.item().decode().splitlines()
    assert step == 0 and rows[:2] == ["| setting | value |", "|---|---|"]
    assert rows[2:] == ["| --class_list | a&#124;b.txt |", "| --seed | `7` |"]

    step, (width, height, png, *_) = value(events, "eval/confusion_matrix")
    assert step == 20 and tf.io.decode_png(png).shape == (int(height), int(width), 3)
