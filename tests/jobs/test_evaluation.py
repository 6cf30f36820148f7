"""What `eval` leaves when its output or its files go nowhere."""

import io
import sys

import pytest

from deeplab_tf import files
from deeplab_tf.config.programs import EvalJobConfig
from deeplab_tf.jobs import evaluation
from deeplab_tf.messages import UserError
from deeplab_tf.training.trainer import Trainer
from tests.conftest import tiny_run


@pytest.fixture
def job(records_dir, tmp_path):
    trainer = Trainer(tiny_run(records_dir, tmp_path / "run"))
    trainer.run_dir.checkpoints.save(trainer.checkpoint, 0, keep=1)
    return EvalJobConfig(checkpoint_dir=str(tmp_path / "run"), eval_logdir=str(tmp_path / "eval"))


class Closed(io.StringIO):
    """The output of `eval | head -2`: whoever reads goes before the table comes."""

    def write(self, text):
        if "IoU %" in text:
            raise BrokenPipeError
        return super().write(text)


def test_all_is_written_if_nobody_reads_the_table(job, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "stdout", Closed())
    with pytest.raises(BrokenPipeError):
        evaluation.main(job)
    written = {path.name for path in (tmp_path / "eval").iterdir()}
    assert {"results.json", "per_image.csv", "worst_images.csv", "confusion_matrix.csv"} <= written


def test_the_table_is_told_if_the_disk_takes_no_file(job, monkeypatch, capsys):
    def refuse(path, content):
        raise UserError(f"{path} cannot be written.")

    monkeypatch.setattr(files, "write", refuse)
    with pytest.raises(UserError, match="cannot be written"):
        evaluation.main(job)
    assert "mIoU" in capsys.readouterr().out
