"""Whatever a builder accepts as a mask, training reads to the values that it was converted to."""

import io
import random
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from deeplab_tf.conversion import masks
from deeplab_tf.data import decoding, records
from deeplab_tf.data.examples import EncodedExample
from deeplab_tf.messages import UserError
from tests.faults import pictures

CODING = masks.MaskCoding(num_classes=3, ignore_label=255)
IMAGE = decoding.encode_png(Image.new("RGB", (1, 1)))
# Compiled once: called directly, each operation would cost more than its work.
parse = tf.function(records.parse, input_signature=[tf.TensorSpec([], tf.string)], autograph=False)


@pytest.mark.filterwarnings("ignore")  # Pillow's, about damaged files
def test_masks(fuzz):
    def attempt(rng: random.Random, folder: Path) -> None:
        content = pictures.mutated_png(pictures.mask(rng, num_classes=3), rng)
        (folder / "mask.png").write_bytes(content)
        try:
            mask = masks.encode_mask(content, "mask.png", CODING)
        except UserError as error:
            assert "mask.png" in str(error) and "\n" not in str(error)
            return

        example = EncodedExample("mask", IMAGE, "png", 1, 1, mask.png)
        read = parse(tf.constant(records.serialize(example)))["label"].numpy()[..., 0]
        with Image.open(io.BytesIO(content)) as image:
            np.testing.assert_array_equal(read, np.asarray(image))
        assert mask.size == read.shape[::-1]
        assert set(np.unique(read)) <= {0, 1, 2, 255}
        assert list(mask.counts) == np.bincount(read.ravel(), minlength=256).tolist()

    fuzz(attempt, tries=300)
