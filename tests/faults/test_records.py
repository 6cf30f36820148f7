"""Whatever a shard holds, reading gives what was written, or names the bad record."""

import io
import random
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from google.protobuf.message import DecodeError
from PIL import Image

from deeplab_tf.data import catalog, records
from deeplab_tf.data.record_checks import RecordChecks, require_good
from deeplab_tf.messages import UserError
from tests.faults import pictures
from tests.faults.mutations import mutated

CHECKS = RecordChecks(num_classes=3, ignore_label=255)
INFO = catalog.DatasetInfo(name="three", classes=catalog.load("camvid", "").classes[:3])
# Compiled once: called directly, each operation would cost more than its work.
parse = tf.function(CHECKS.parse, input_signature=[tf.TensorSpec([], tf.string)], autograph=False)


def written(path: Path, contents: list[bytes]) -> None:
    with records.shard_writer(path) as writer:
        for content in contents:
            writer.write(content)


def shard(folder: Path) -> Path:
    return folder / "train-00000-of-00001.tfrecord"


def record(rng: random.Random) -> bytes:
    """A record of an image and a label that need not fit each other or be intact."""
    example = tf.train.Example()
    image = rng.choice([pictures.jpeg, pictures.png])(rng)
    label = rng.choice([lambda rng: pictures.mask(rng, num_classes=3), pictures.png])(rng)
    if rng.random() < 0.5:
        values = Image.open(io.BytesIO(image)).convert("L").point(lambda value: value % 3)
        label = io.BytesIO()
        values.save(label, "PNG")
        label = label.getvalue()
    for key, value in (
        ("encoded", image),
        ("segmentation/class/encoded", label),
        ("filename", b"a"),
    ):
        if rng.random() < 0.97:
            example.features.feature[f"image/{key}"].bytes_list.value.append(value)
    return example.SerializeToString()


@pytest.mark.filterwarnings("ignore")  # Pillow's, about damaged files
def test_records(fuzz):
    def attempt(rng: random.Random, folder: Path) -> None:
        content = record(rng)
        if rng.random() < 0.5:
            content = mutated(content, rng)
        written(shard(folder), [content])
        table = records.open_split(folder, "train", INFO)
        try:
            read = parse(table.read(0))
        except (tf.errors.OpError, UnicodeDecodeError):
            with pytest.raises(UserError, match=r"ecord 1 of 1 in [^\n]*$"):
                require_good(table, 0, CHECKS)
            return

        try:
            features = tf.train.Example.FromString(content).features.feature
        except DecodeError:  # TensorFlow passes over some faults between the features
            return
        # What is read must be what the files hold, by another decoder.
        require_good(table, 0, CHECKS)
        label = Image.open(
            io.BytesIO(features["image/segmentation/class/encoded"].bytes_list.value[0])
        )
        assert label.mode == "L"
        np.testing.assert_array_equal(read["label"][..., 0], np.asarray(label))

    fuzz(attempt, tries=60)


def test_shards(fuzz):
    def attempt(rng: random.Random, folder: Path) -> None:
        contents = [rng.randbytes(rng.randrange(60)) for _ in range(rng.randrange(1, 6))]
        written(shard(folder), contents)
        shard(folder).write_bytes(mutated(shard(folder).read_bytes(), rng))
        try:
            table = records.open_split(folder, "train", INFO)
        except UserError as error:
            assert str(folder) in str(error) and "\n" not in str(error)
            return

        for index in range(len(table)):
            try:
                # Whole records may be lost or doubled: only a dataset.json tells.
                assert table.read(index).numpy() in contents
            except tf.errors.DataLossError:
                message = f"Record {index + 1} of {len(table)} in .* is damaged"
                with pytest.raises(UserError, match=message):
                    require_good(table, index, CHECKS)

    fuzz(attempt, tries=60)
