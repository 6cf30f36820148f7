"""The functions that a server runs: they check requests, decode images and predict.

No request may end the server's process. A request that is refused gets INVALID_ARGUMENT, and each
check comes before the work that it guards.
"""

import re
from collections.abc import Callable
from pathlib import Path

import tensorflow as tf

from deeplab_tf.config import ServingConfig
from deeplab_tf.data import encoded, records, transforms
from deeplab_tf.evaluation.predictor import Predictor
from deeplab_tf.messages import counted

# These names and meanings are an interface that other people's clients rely on.
INPUTS = {
    "images": "RGB images of one size, of any height and width.",
    "encoded_images": "JPEG or PNG files; over REST each as {'b64': ...}.",
}
# For images that are not 8-bit RGB: a type of their own, so that nobody mistakes one kind of model
# for the other. Not uint16, which TensorFlow Serving's REST interface does not take (its
# `json_tensor.cc`).
DEEP_TYPE = tf.int32
OUTPUTS = {
    "labels": "The class of each pixel, an index into assets/labels.csv.",
    "scores": "The probability of each pixel's label, averaged over scales and flips.",
    "probabilities": "The probability of each class, adding up to 1 at each pixel.",
}


class ServingModule(tf.Module):
    """The signatures, the variables that they read, and the class table: what a SavedModel holds.

    `functions` maps the names of the signatures to functions:
      serving_default: takes images, uint8 [B, H, W, 3], RGB.
      serve_encoded: takes encoded_images, string [B], and resizes them to `serving_size` if given.
    Both return labels [B, H, W] and, if configured, scores, float32 [B, H, W], and
    probabilities, float32 [B, H, W, classes].

    If the model's images are not 8-bit RGB, there is only the first one. It takes images of their
    channels, of `DEEP_TYPE`, with the values of their files.
    """

    def __init__(
        self,
        predictor: Predictor,
        config: ServingConfig,
        *,
        class_table: Path,
        variables: list[tf.Variable],
    ):
        """Makes the functions.

        Args:
          class_table: path of the file that becomes assets/labels.csv.
          variables: all variables that the predictor reads; a SavedModel keeps only variables that
            the module has as attributes.
        """
        super().__init__()
        self.used_variables = variables
        self.class_table = tf.saved_model.Asset(str(class_table))

        kind = predictor.image_kind
        dtype = tf.uint8 if kind.is_rgb else DEEP_TYPE
        shape = [None, None, None, kind.channels]
        spec_of_images = tf.TensorSpec(shape, dtype, name="images")
        self.meaning_of_images = {}
        if not kind.is_rgb:
            meaning = f"Images of one size, of {kind.described()}, of any height and width."
            self.meaning_of_images = {"images": meaning}

        def serve(images):
            # Before everything else: a tensor of another rank would abort the server's process
            # (docs/ancestors.md, TensorFlow).
            images = tf.ensure_shape(images, spec_of_images.shape)
            return _outputs(predictor, _checked(images, predictor, config), config)

        def serve_encoded(encoded_images):
            files = tf.ensure_shape(encoded_images, [None])
            images = _decoded(_checked_files(files, config), config.serving_size)
            return _outputs(predictor, _checked(images, predictor, config), config)

        def signature(function: Callable, spec: tf.TensorSpec):
            return tf.function(function, input_signature=[spec], autograph=False)

        files = tf.TensorSpec([None], tf.string, name="encoded_images")
        self.functions = {  # not called `signatures`, which TensorFlow uses itself
            "serving_default": signature(serve, spec_of_images)
        }
        if kind.is_rgb:
            self.functions["serve_encoded"] = signature(serve_encoded, files)


def _outputs(predictor, images, config):
    """Predicts images, uint8 [B, H, W, 3], and returns the configured outputs by name."""
    scores = predictor.scores(images)
    outputs = {"labels": predictor.labels_of(scores)}
    if config.add_scores or config.add_probabilities:
        probabilities = predictor.probabilities_of(scores)
        if config.add_scores:
            outputs["scores"] = tf.reduce_max(probabilities, axis=-1)
        if config.add_probabilities:
            outputs["probabilities"] = probabilities
    return outputs


def _checked(images, predictor, config):
    """Returns `images`, uint8 [B, H, W, 3]; fails if there are none, too many or too large ones."""
    shape = tf.shape(images, out_type=tf.int64)[:3]
    counts = [
        tf.debugging.Assert(
            tf.reduce_all(shape > 0), ["images is empty; batch, height and width:", shape]
        ),
        _at_most_a_batch(shape[0], config),
        tf.debugging.Assert(
            shape[1] * shape[2] <= config.max_image_pixels,
            [f"images have more than {config.max_image_pixels} pixels; height, width:", shape[1:]],
        ),
    ]
    with tf.control_dependencies(counts):
        size = tf.identity(shape[1:])

    pixels = predictor.most_pixels(size)
    views = tf.debugging.Assert(
        pixels <= config.max_image_pixels,
        [
            f"images have more than {config.max_image_pixels} pixels when resized for "
            "prediction; height, width, pixels:",
            size,
            pixels,
        ],
    )
    with tf.control_dependencies([views]):
        return tf.identity(images)


def _checked_files(files, config):
    """Returns `files`, strings [B]; fails unless their headers say that they may be decoded."""
    count = tf.size(files, out_type=tf.int64)
    counts = [
        tf.debugging.Assert(count > 0, ["encoded_images is empty; batch:", count]),
        _at_most_a_batch(count, config),
    ]
    with tf.control_dependencies(counts):
        files = tf.identity(files)

    sizes = tf.map_fn(encoded.image_size, files, fn_output_signature=tf.TensorSpec([2], tf.int64))
    pixels = tf.reduce_prod(sizes, axis=1)
    checks = [
        tf.debugging.Assert(
            tf.reduce_all(pixels > 0),
            [
                "an element of encoded_images is not a JPEG or PNG of 8 bits, or is a JPEG in "
                "CMYK; sizes:",
                sizes,
            ],
        ),
        tf.debugging.Assert(
            tf.reduce_all(pixels <= config.max_image_pixels),
            [f"an image has more than {config.max_image_pixels} pixels; sizes:", sizes],
        ),
    ]
    if not config.serving_size:
        same = tf.debugging.Assert(
            tf.reduce_all(sizes == sizes[:1]), ["images of a batch differ in size:", sizes]
        )
        checks.append(same)

    with tf.control_dependencies(checks):
        return tf.identity(files)


def _at_most_a_batch(count, config):
    return tf.debugging.Assert(
        count <= config.max_batch_size,
        [f"a batch of more than {counted(config.max_batch_size, 'image')}:", count],
    )


def _decoded(files, size):
    """Decodes strings [B] to uint8 [B, H, W, 3], resized to `size` if it is not empty."""

    def decode(file):
        image = encoded.upright(records.decode_image(file), file)
        return transforms.resize_image(image, size) if size else image

    shape = [*(size or (None, None)), 3]
    return tf.map_fn(decode, files, fn_output_signature=tf.TensorSpec(shape, tf.uint8))


def reason_of(error: tf.errors.InvalidArgumentError) -> str:
    """Returns the message of the check that failed, without what TensorFlow adds to it."""
    failed = re.search(r"assertion failed: (.*)", str(error))
    return failed[1] if failed else str(error).splitlines()[0]
