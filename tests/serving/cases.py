"""A small exported model, and the requests, good and bad, that every program makes to it."""

import dataclasses
import functools
import io
import struct
import zlib

import numpy as np
import tensorflow as tf
from PIL import Image

from deeplab_tf.config import ModelConfig, ServingConfig
from deeplab_tf.data.catalog import DatasetInfo, LabelClass
from deeplab_tf.evaluation.predictor import Predictor
from deeplab_tf.models.deeplab import DeepLab, build_model
from deeplab_tf.serving import export

INFO = DatasetInfo(
    name="seven", classes=tuple(LabelClass(f"class {i}", (i, 10 * i, 255 - i)) for i in range(7))
)
LIMITS = {"max_image_pixels": 40_000, "max_batch_size": 4}
SIZE = (45, 60)


@functools.cache
def model() -> DeepLab:
    tf.keras.utils.set_random_seed(0)
    model = build_model(
        ModelConfig(
            model_variant="resnet_v1b_18",
            atrous_rates=(1, 2, 3),
            aspp_convs_filters=8,
            auxiliary_filters=8,
            initializer="he_normal",  # whose scores differ from pixel to pixel
        ),
        num_classes=7,
    )
    model.classifier.conv.kernel.assign(model.classifier.conv.kernel * 100)  # decided scores
    return model


def write(folder, *, predictor=None, base_path="", **config):
    """Exports `predictor` (the model, whole) and returns the version's folder."""
    predictor = predictor or Predictor(model())
    return export.export(
        predictor,
        dataclasses.replace(INFO, image_kind=predictor.image_kind),
        folder,
        config=ServingConfig(**LIMITS | config),
        warmup_size=SIZE,
        base_path=base_path,
    )


def pictures(count=2, size=SIZE, seed=0):
    """Smooth images, uint8 [count, *size, 3]."""
    coarse = np.random.default_rng(seed).uniform(0, 255, (count, 5, 6, 3)).astype(np.float32)
    return tf.cast(tf.image.resize(coarse, size), tf.uint8).numpy()


def encode(pixels, kind="PNG", **settings) -> bytes:
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    buffer = io.BytesIO()
    image.save(buffer, kind, **settings)
    return buffer.getvalue()


def png_of_any_size(width, height, depth=8) -> bytes:
    """A PNG that only says how large it is."""

    def chunk(kind, content):
        checksum = zlib.crc32(kind + content)
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", checksum)

    header = struct.pack(">IIBBBBB", width, height, depth, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IEND", b"")


def jpeg_of_any_size(width, height) -> bytes:
    """A JPEG that only says how large it is."""
    file = bytearray(encode(pictures(1)[0], "JPEG"))
    frame = file.index(b"\xff\xc0")  # start of frame: length, precision, height, width
    file[frame + 5 : frame + 9] = struct.pack(">HH", height, width)
    return bytes(file)


def bad_images() -> dict[str, tuple[np.ndarray, str]]:
    """Tensors that serving_default refuses, with part of the reason."""
    return {
        "wrong rank": (np.zeros([33, 33, 3], np.uint8), "expected shape [?,?,?,3]"),
        "wrong channels": (np.zeros([1, 33, 33, 4], np.uint8), "expected shape [?,?,?,3]"),
        "empty batch": (np.zeros([0, 33, 33, 3], np.uint8), "images is empty"),
        "empty image": (np.zeros([1, 33, 0, 3], np.uint8), "images is empty"),
        "large batch": (np.zeros([5, 9, 9, 3], np.uint8), "more than 4 images"),
        "large image": (np.zeros([1, 200, 201, 3], np.uint8), "more than 40000 pixels"),
    }


def bad_ranks() -> dict[str, tuple[np.ndarray, str]]:
    """Strings in shapes that serve_encoded refuses, with part of the reason."""
    file = encode(pictures(1)[0])
    return {
        "scalar": (np.array(file, object), "expected shape [?]"),
        "matrix": (np.array([[file]], object), "expected shape [?]"),
    }


def bad_files() -> dict[str, tuple[list[bytes], str]]:
    """Batches that serve_encoded refuses, with part of the reason."""
    image = pictures(1)[0]
    jpeg, png = encode(image, "JPEG"), encode(image)
    noisy = encode(np.random.default_rng(0).integers(0, 256, (*SIZE, 3), np.uint8))
    return {
        "no file": ([], "encoded_images is empty"),
        "empty file": ([b""], "not a JPEG or PNG"),
        "garbage": ([b"\0garbage" * 99], "not a JPEG or PNG"),
        "one of two": ([jpeg, b"\xff\xd8"], "not a JPEG or PNG"),
        "GIF": ([encode(image, "GIF")], "not a JPEG or PNG"),
        "PNG signature": ([png[:8]], "not a JPEG or PNG"),
        "16 bits": ([encode(np.zeros(SIZE, np.uint16))], "not a JPEG or PNG"),
        "16 bits, RGB": ([png_of_any_size(60, 45, depth=16)], "not a JPEG or PNG"),
        "CMYK": ([encode(Image.new("CMYK", SIZE), "JPEG")], "or is a JPEG in CMYK"),
        "JPEG signature": ([jpeg[:3]], "Invalid JPEG data"),
        "truncated JPEG": ([jpeg[:-100]], "Invalid JPEG data"),
        "truncated PNG": ([noisy[: len(noisy) // 2]], "Invalid PNG data"),
        "bomb": ([encode(Image.new("L", (20_000, 20_000)))], "more than 40000 pixels"),
        "huge header": ([png_of_any_size(2**31 - 1, 2**31 - 1)], "more than 40000 pixels"),
        "huge JPEG header": ([jpeg_of_any_size(65_500, 65_500)], "more than 40000 pixels"),
        "too huge JPEG header": ([jpeg_of_any_size(65_535, 65_535)], "Invalid JPEG data"),
        "negative header": ([png_of_any_size(2**31, 2**32 - 1)], "not a JPEG or PNG"),
        "two sizes": ([jpeg, encode(image[:-1])], "differ in size"),
        "large batch": ([jpeg] * 5, "more than 4 images"),
    }
