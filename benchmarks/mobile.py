"""TensorFlow Lite files of the mobile networks: bytes, equal labels and latency.

    python -m benchmarks.mobile

The networks come from the recipes in configs/official and are untrained. The labels of an untrained
int8 file say nothing, so only the other files' labels are compared with the SavedModel's. Latencies
are medians over calls with one image, with one and with two threads.
"""

import dataclasses
import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from benchmarks import pairs
from deeplab_tf.config import Config, DataConfig, EvalConfig, ModelConfig, flags, setting

# Recipes, with what is changed of their networks; the first is official DeepLab's smallest.
NETWORKS = {
    "MobileNetV2, depth multiplier 0.5": ("voc_mobilenetv2_os16", {"depth_multiplier": 0.5}),
    "MobileNetV2": ("voc_mobilenetv2_os16", {}),
    "MobileNetV3 large": ("cityscapes_mobilenetv3large_os32", {}),
    "MobileNetV3 small": ("cityscapes_mobilenetv3small_os32", {}),
}


@dataclass(frozen=True, kw_only=True)
class MobileConfig(Config):
    """Which images, and how often to measure."""

    size: int = setting(513, "Height and width of the images.", least=33)
    calls: int = setting(20, "Calls in a measurement.", least=1)


def main(config: MobileConfig) -> None:
    """Prints a line for each network and format."""
    import numpy as np

    from deeplab_tf.serving import formats

    size = (config.size, config.size)
    images = np.random.default_rng(0).integers(0, 256, (4, *size, 3), np.uint8)
    for title, (recipe, changes) in NETWORKS.items():
        network = flags.parse_flagfile(pairs.ROOT / f"configs/official/{recipe}.flags").model
        network = dataclasses.replace(network, **changes)
        with tempfile.TemporaryDirectory() as folder:
            served = formats.open_export(exported(network, size, Path(folder)), image_size=size)
            expected = served.serve(images[:1])["labels"].numpy()
            files = {
                "float32": formats.tflite(served),
                "float16": formats.tflite(served, half=True),
                "int8": formats.tflite(served, calibration=list(images)),
            }

        for name, content in files.items():
            labels, times = predicted(content, images[:1], config.calls)
            same = "" if name == "int8" else f", {100 * np.mean(labels == expected):.3f} % equal"
            speeds = ", ".join(f"{value:.1f} ms with {threads}" for threads, value in times.items())
            print(f"{title}, {name}: {len(content)} bytes, {speeds}{same}", flush=True)


def exported(network: ModelConfig, size: tuple[int, int], folder: Path) -> Path:
    """Exports an untrained network; returns the export's folder."""
    import tensorflow as tf

    from deeplab_tf.data.catalog import DatasetInfo, LabelClass
    from deeplab_tf.evaluation.predictor import build_predictor
    from deeplab_tf.models.deeplab import build_model
    from deeplab_tf.serving import export

    classes = 19 if network.decoder_output_is_logits else 21  # of Cityscapes and VOC
    model = build_model(network, num_classes=classes)
    random = tf.random.Generator.from_seed(0)
    for weight in model.weights:  # files hold equal vectors, such as zeros, only once
        weight.assign_add(0.01 * random.uniform(weight.shape))

    names = (LabelClass(f"class {index}", (index,) * 3) for index in range(classes))
    info = DatasetInfo(name="untrained", classes=tuple(names))
    predictor = build_predictor(model, DataConfig(), EvalConfig())
    return export.export(predictor, info, folder, warmup_size=size)


def predicted(content: bytes, images, calls: int) -> tuple:
    """Returns a file's labels, and the milliseconds of a call by the number of threads."""
    import tensorflow as tf

    times, labels = {}, None
    for threads in (1, 2):
        interpreter = tf.lite.Interpreter(model_content=content, num_threads=threads)
        runner = interpreter.get_signature_runner("serving_default")
        labels = runner(images=images)["labels"]
        taken = []
        for _ in range(calls):
            start = time.perf_counter()
            runner(images=images)
            taken.append(time.perf_counter() - start)
        times[threads] = 1000 * statistics.median(taken)
    return labels, times


if __name__ == "__main__":
    flags.run(main, [MobileConfig], "Measures TensorFlow Lite files of the mobile networks.")
