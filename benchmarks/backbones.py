"""Inference of Google's backbones: ours as exported, and the same networks of plain Keras layers.

    python -m benchmarks.backbones

Both are untrained, dilated for output stride 16 and compiled; the image is 513x513. Ours has batch
normalisation folded into its convolutions, as in every export. The measurements alternate.
"""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

from deeplab_tf.config import Config, flags, setting


@dataclass(frozen=True, kw_only=True)
class BackbonesConfig(Config):
    """How often to measure."""

    size: int = setting(513, "Height and width of the image.", least=33)
    pairs: int = setting(5, "Measurements of each program, in turn.", least=1)


def main(config: BackbonesConfig) -> None:
    """Prints the images per second of each network, ours and Keras', and their ratio."""
    import numpy as np
    import tensorflow as tf

    images = tf.constant(np.random.default_rng(0).uniform(-1, 1, (1, config.size, config.size, 3)))
    images = tf.cast(images, tf.float32)
    for variant, build in (("mobilenet_v2", keras_mobilenet_v2), ("xception_65", keras_xception)):
        programs = {"ours": ours(variant, config.size), "Keras layers": compiled(build())}
        times: dict[str, list[float]] = {name: [] for name in programs}
        for program in programs.values():
            program(images)  # traces
        for _ in range(config.pairs):
            for name, program in programs.items():
                times[name].append(seconds(program, images))

        medians = {name: statistics.median(values) for name, values in times.items()}
        speeds = ", ".join(f"{name} {1 / value:.2f} images/s" for name, value in medians.items())
        print(f"{variant}: {speeds}, ratio {medians['Keras layers'] / medians['ours']:.2f}")


def seconds(program: Callable, images) -> float:
    """Returns the seconds that one image takes."""
    start = time.perf_counter()
    program(images).numpy()
    return time.perf_counter() - start


def ours(variant: str, size: int) -> Callable:
    """Returns our backbone as exports have it: normalised images -> its last feature map."""
    import tensorflow as tf

    from deeplab_tf.config import ModelConfig
    from deeplab_tf.models.deeplab import build_model

    model = build_model(ModelConfig(model_variant=variant), num_classes=2)
    function = tf.function(lambda images: model.backbone(images)[model.backbone.context_end_point])
    with model.folded((size, size)):
        return function.get_concrete_function(tf.TensorSpec([1, size, size, 3]))


def compiled(model) -> Callable:
    """Returns a Keras model as a compiled function for inference."""
    import tensorflow as tf

    return tf.function(lambda images: model(images, training=False))


def _norm_relu(outputs, activation):
    import tensorflow as tf

    outputs = tf.keras.layers.BatchNormalization()(outputs)
    return tf.keras.layers.ReLU(6.0 if activation == "relu6" else None)(outputs)


def keras_mobilenet_v2():
    """Builds MobileNetV2 up to its 320 channels (Sandler et al. 2018, table 2)."""
    import tensorflow as tf

    layers = tf.keras.layers
    images = tf.keras.Input([None, None, 3])
    outputs = layers.Conv2D(32, 3, 2, "same", use_bias=False)(images)
    outputs = _norm_relu(outputs, "relu6")
    units = [(1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1)]
    units += [(6, 160, 3, 1), (6, 320, 1, 1)]  # factor, width, number, stride of the first one
    rate = 1
    for factor, width, number, first_stride in units:
        for index in range(number):
            inputs, stride = outputs, first_stride if index == 0 else 1
            if factor > 1:
                outputs = layers.Conv2D(factor * inputs.shape[-1], 1, use_bias=False)(outputs)
                outputs = _norm_relu(outputs, "relu6")
            outputs = layers.DepthwiseConv2D(3, stride, "same", dilation_rate=rate, use_bias=False)(
                outputs
            )
            outputs = _norm_relu(outputs, "relu6")
            outputs = layers.Conv2D(width, 1, use_bias=False)(outputs)
            outputs = layers.BatchNormalization()(outputs)
            if stride == 1 and inputs.shape[-1] == width:
                outputs = layers.Add()([inputs, outputs])
            if width == 160:  # where the stride was that output stride 16 leaves out
                rate = 2
    return tf.keras.Model(images, outputs)


def keras_xception():
    """Builds Xception-65 of DeepLabV3+ (Chen et al. 2018, figure 4), at output stride 16."""
    import tensorflow as tf

    layers = tf.keras.layers

    def separable(outputs, width, stride=1, rate=1, relu_after=False):
        if not relu_after:
            outputs = layers.ReLU()(outputs)
        outputs = layers.DepthwiseConv2D(3, stride, "same", dilation_rate=rate, use_bias=False)(
            outputs
        )
        outputs = layers.BatchNormalization()(outputs)
        outputs = layers.ReLU()(outputs) if relu_after else outputs
        outputs = layers.Conv2D(width, 1, use_bias=False)(outputs)
        outputs = layers.BatchNormalization()(outputs)
        return layers.ReLU()(outputs) if relu_after else outputs

    images = tf.keras.Input([None, None, 3])
    outputs = _norm_relu(layers.Conv2D(32, 3, 2, "same", use_bias=False)(images), "relu")
    outputs = _norm_relu(layers.Conv2D(64, 3, 1, "same", use_bias=False)(outputs), "relu")
    units = [((128,) * 3, 2), ((256,) * 3, 2), ((728,) * 3, 2)] + [((728,) * 3, 1)] * 16
    units += [((728, 1024, 1024), 1)]
    for widths, stride in units:
        inputs = outputs
        for index, width in enumerate(widths):
            outputs = separable(outputs, width, stride if index == 2 else 1)
        if inputs.shape[-1] != widths[-1] or stride > 1:
            inputs = layers.Conv2D(widths[-1], 1, stride, use_bias=False)(inputs)
            inputs = layers.BatchNormalization()(inputs)
        outputs = layers.Add()([inputs, outputs])
    for width in (1536, 1536, 2048):
        outputs = separable(outputs, width, rate=2, relu_after=True)
    return tf.keras.Model(images, outputs)


if __name__ == "__main__":
    flags.run(main, [BackbonesConfig], "Measures Google's backbones next to plain Keras layers.")
