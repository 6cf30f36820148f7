"""A full disk, a forbidden folder and killed programs: what was there before stays as it was."""

import contextlib
import errno
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from deeplab_tf import files
from deeplab_tf.config import flags
from deeplab_tf.config.programs import InspectConfig, PredictConfig
from deeplab_tf.evaluation import report
from deeplab_tf.evaluation.predictor import Predictor
from deeplab_tf.jobs import data_inspection, paths
from deeplab_tf.messages import UserError
from deeplab_tf.serving import export
from tests.serving import cases


@contextlib.contextmanager
def files_of_at_most(size):
    """The system refuses to write more bytes to a file, as a full disk does."""
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))


def noise():
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, [50, 50, 3], np.uint8))


def test_a_picture_is_replaced_whole_or_not_at_all(tmp_path):
    path = tmp_path / "pictures" / "a.png"
    report.write_picture(path, Image.new("RGB", (2, 2)))
    before = path.read_bytes()
    with files_of_at_most(2000), pytest.raises(OSError) as told:
        report.write_picture(path, noise())
    assert path.read_bytes() == before and os.listdir(path.parent) == ["a.png"]
    sentence = flags._sentence_of(told.value)
    assert (
        sentence == f"{path} could not be written: File too large; make room, or write elsewhere."
    )

    report.write_picture(path, noise())
    np.testing.assert_array_equal(np.asarray(Image.open(path)), np.asarray(noise()))


def test_an_inspection_keeps_the_earlier_page(records_dir, tmp_path):
    job = InspectConfig(dataset_dir=str(records_dir), splits=("val",), output_dir=str(tmp_path))
    data_inspection.main(job)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert sorted(before) == ["statistics.json", "val.png"]
    with files_of_at_most(2000), pytest.raises((OSError, UserError), match=str(tmp_path)):
        data_inspection.main(job)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES])
def test_errors_of_disks_name_the_file(tmp_path, monkeypatch, code):
    def fail(*_):
        raise OSError(code, os.strerror(code))  # as of a file that is open: without a name

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError) as told:
        files.write(tmp_path / "new" / "a\nb.json", "content")
    sentence = flags._sentence_of(told.value)
    assert sentence.startswith(f"{tmp_path}/new/a\\nb.json could not be ")
    assert os.strerror(code) in sentence and "\n" not in sentence


def test_folders_are_tried_before_the_work(tmp_path):
    files.require_writable(tmp_path / "new" / "folder", flag="output_dir")
    assert not any(tmp_path.iterdir())

    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to("nowhere")
    for name in ("file", "file/in/it", "link/in/it"):
        with pytest.raises(UserError, match=f"--output_dir=.*{name} cannot be written .*; give an"):
            files.require_writable(tmp_path / name, flag="output_dir")
    with files_of_at_most(100), pytest.raises(UserError, match="File too large"):
        files.require_writable(tmp_path, flag="output_dir")


def test_predict_tries_its_folder_before_the_images(tmp_path):
    (tmp_path / "file").touch()
    job = PredictConfig(
        input=("none.png",), output_dir=str(tmp_path / "file"), checkpoint_dir="run"
    )
    with pytest.raises(UserError, match="--output_dir=.*file cannot be written"):
        paths.images_to_predict(job)


BUILD = """
import os, sys
from pathlib import Path
from deeplab_tf import files
with files.building_folder(Path(sys.argv[1]), ".building-") as folder:
    (folder / "half").touch()
    print(folder, flush=True)
    sys.stdin.read()
"""


def test_what_a_killed_program_was_building_is_removed_by_the_next(tmp_path):
    command = [sys.executable, "-c", BUILD, str(tmp_path)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, cwd=Path(__file__).parents[2], **pipes) as other:
        theirs = Path(other.stdout.readline().strip())
        with files.building_folder(tmp_path, ".building-") as ours:
            assert {theirs, ours} == set(tmp_path.iterdir()) and (theirs / "half").exists()
        other.send_signal(signal.SIGKILL)
    assert list(tmp_path.iterdir()) == [theirs]
    with files.building_folder(tmp_path, ".building-") as ours:
        assert list(tmp_path.iterdir()) == [ours]
    assert not any(tmp_path.iterdir())


def test_an_export_to_a_full_disk_is_told_and_leaves_nothing(tmp_path, monkeypatch):
    def fail(_, folder, **__):
        Path(folder).mkdir()
        raise tf.errors.ResourceExhaustedError(None, None, f"{folder}/x; No space left on device")

    monkeypatch.setattr(tf.saved_model, "save", fail)
    with pytest.raises(UserError, match=f"could not be written to {tmp_path} .*No space left"):
        export.export(Predictor(cases.model()), cases.INFO, tmp_path)
    assert not any(tmp_path.iterdir())
