"""What a folder that is no run is said to be."""

import numpy as np
import pytest
import tensorflow as tf

from deeplab_tf.messages import UserError
from deeplab_tf.runs import loaded_run
from tests.weights import writers


def said_of(path):
    with pytest.raises(UserError) as error:
        loaded_run.load(path)
    return str(error.value).removeprefix(f"{path} is not a run's folder")


def test_weights_of_other_programs_are_named_with_the_command(tmp_path):
    folder = tmp_path / "my weights"
    folder.mkdir()
    (folder / "m.pth").write_bytes(b"")
    command = f"import_weights --source='{folder}/m.pth' --output=DIR`"
    assert f": {folder}/m.pth holds weights" in said_of(folder) and command in said_of(folder)
    assert said_of(folder / "m.pth").startswith(": it holds weights of another program")
    for step in (9, 10):
        writers.write_tf1_checkpoint(folder / f"model.ckpt-{step}", {"w": np.ones(1)})
    assert f": {folder}/model.ckpt-10 holds" in said_of(folder)
    for ending in ("", ".index", ".data-00000-of-00001"):
        path = folder / f"model.ckpt-9{ending}"
        assert f"--source='{folder}/model.ckpt-9' --output=DIR`, then give DIR" in said_of(path)


def test_own_checkpoints_without_their_settings_are_not_imported(tmp_path):
    tf.train.Checkpoint(v=tf.Variable(1.0)).write(str(tmp_path / "model.ckpt-5"))
    expected = ": it holds checkpoints, but no experiment.flags; copy experiment.flags and dataset."
    assert said_of(tmp_path).startswith(expected)
    with pytest.raises(UserError, match=f"^{tmp_path} is not .*{expected[2:]}"):
        loaded_run.load(tmp_path / "model.ckpt-5")


def test_other_folders_are_described(tmp_path, records_dir):
    assert said_of(tmp_path / "none").startswith(": it does not exist; give a folder that train")
    assert "it holds: nothing. Give a folder" in said_of(tmp_path)
    for number in range(8):
        (tmp_path / f"{number}.txt").touch()
    assert "it holds: 0.txt, 1.txt, 2.txt, 3.txt, 4.txt, 5.txt, 2 more." in said_of(tmp_path)
    assert said_of(tmp_path / "0.txt").startswith(": it is a file; give a folder")
    assert said_of(records_dir).startswith(" but a data set's: give it as --dataset_dir")
    (tmp_path / "export" / "1").mkdir(parents=True)
    (tmp_path / "export" / "1" / "saved_model.pb").touch()
    for path in ("export", "export/1"):
        assert " but an exported model's; predict and " in said_of(tmp_path / path)
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "experiment.flags").touch()
    assert f"but holds runs; give one of them: {tmp_path}/a." in said_of(tmp_path)
