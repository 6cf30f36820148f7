"""Whatever a builder accepts as an image, training reads to the same pixels."""

import io
import random
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from deeplab_tf.conversion import encoding, masks
from deeplab_tf.data import records
from deeplab_tf.messages import UserError
from tests.faults import pictures
from tests.faults.mutations import mutated

CODING = masks.MaskCoding(num_classes=3, ignore_label=255)
# Compiled once: called directly, each operation would cost more than its work.
parse = tf.function(records.parse, input_signature=[tf.TensorSpec([], tf.string)], autograph=False)


def accepted(content: bytes, folder: Path, ending: str) -> encoding.EncodedExample | None:
    path = folder / f"image{ending}"
    path.write_bytes(content)
    try:
        return encoding.encode_pair(encoding.FilePair("image", path, None), CODING)
    except UserError as error:
        assert str(path) in str(error) and "\n" not in str(error)
        return None


def require_read_alike(content: bytes, folder: Path, ending: str) -> None:
    example = accepted(content, folder, ending)
    if example:
        read = parse(tf.constant(records.serialize(example)))["image"].numpy()
        with Image.open(io.BytesIO(content)) as image:
            image.load()
            np.testing.assert_array_equal(read, image.convert("RGB"))


@pytest.mark.filterwarnings("ignore")  # Pillow's, about damaged files
def test_jpegs(fuzz):
    def attempt(rng: random.Random, folder: Path) -> None:
        require_read_alike(mutated(pictures.jpeg(rng), rng), folder, ".jpg")

    fuzz(attempt, tries=300)


@pytest.mark.filterwarnings("ignore")
def test_pngs(fuzz):
    def attempt(rng: random.Random, folder: Path) -> None:
        require_read_alike(pictures.mutated_png(pictures.png(rng), rng), folder, ".png")

    fuzz(attempt, tries=300)


def test_undamaged_files_are_kept_as_they_are(fuzz):
    def attempt(rng: random.Random, folder: Path) -> None:
        content = pictures.jpeg(rng)
        assert accepted(content, folder, ".jpg").image == content
        require_read_alike(content, folder, ".jpg")

    fuzz(attempt, tries=30)
