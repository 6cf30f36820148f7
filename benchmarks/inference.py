"""Inference: our exported SavedModel against PyTorch, onnxruntime and, on CPUs, OpenVINO.

    python -m benchmarks.inference --depth=50 --output_stride=16
    python -m benchmarks.inference --device=gpu --batch_size=16 --calls=20

The network is SSSegmentation's, untrained; every program returns labels and probabilities at the
images' size. The limit is the device's own rate of matrix products. The work counts all products,
those with padding too; Winograd's form needs fewer of them. Float32 is TF32 on GPUs that have it.
"""

import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from benchmarks import pairs
from deeplab_tf.config import Config, flags, setting


@dataclass(frozen=True, kw_only=True)
class InferenceConfig(Config):
    """What is predicted, and how often."""

    depth: int = setting(50, "Depth of the v1c ResNet.", choices=(50, 101))
    output_stride: int = setting(16, "Output stride.", choices=(8, 16))
    crop_size: tuple[int, ...] = setting((512, 512), "Height and width of the images.")
    batch_size: int = setting(1, "Images in a call.", least=1)
    device: str = setting("cpu", "Device of all programs.", choices=("cpu", "gpu"))
    num_classes: int = setting(21, "Classes.")
    calls: int = setting(4, "Calls in a measurement, after one that is not timed.", least=1)
    pairs: int = setting(5, "Measurements of each program.", least=1)
    export: str = setting("", "Folder to export the network to; then nothing is measured.")
    worker: str = setting("", "Folder of this program's SavedModel, if it is the one measured.")


def main(config: InferenceConfig) -> None:
    if config.export:
        export(config)
        return
    if config.worker:
        work(config)
        return
    names = ("depth", "output_stride", "crop_size", "batch_size", "num_classes", "calls", "device")
    shared = [f"--{name}={flags.text_of(getattr(config, name))}" for name in names]
    on_gpu = config.device == "gpu"
    with tempfile.TemporaryDirectory() as folder:
        exporting = pairs.ours("inference", *shared, f"--export={folder}/ours")
        subprocess.run(exporting, cwd=pairs.ROOT, check=True)
        programs = [
            pairs.Program(
                "ours",
                pairs.ours("inference", *shared, f"--worker={folder}/ours"),
                **({} if on_gpu else {"TF_ONEDNN_ASSUME_FROZEN_WEIGHTS": "1"}),
            )
        ]
        for name in ("torch", "onnxruntime") + (() if on_gpu else ("openvino",)):
            own = Path(folder) / name
            own.mkdir()
            command = pairs.peer("inference", *shared, f"--program={name}", f"--folder={own}")
            programs.append(pairs.Program(name, command))
        device = f"--device={config.device}"
        limit = pairs.Program("matrix products", pairs.peer("matrix_product", device))
        ratio = pairs.compare(programs, pairs=config.pairs, limit=limit, limited="GFLOP/s")
    print(f"ratio: {ratio:.3f}")


def export(config: InferenceConfig) -> None:
    """Exports the network, untrained, and writes its operations for an image next to it."""
    from benchmarks import network
    from deeplab_tf.config import ServingConfig
    from deeplab_tf.data.catalog import DatasetInfo, LabelClass
    from deeplab_tf.evaluation.predictor import Predictor
    from deeplab_tf.jobs.benchmark import forward_flops
    from deeplab_tf.serving import export as saved_model

    model = network.ssseg(config.depth, config.output_stride, config.num_classes)
    flops = forward_flops(model, *config.crop_size)
    _flops_file(config.export).write_text(str(flops))
    classes = tuple(LabelClass(str(index), (0, 0, 0)) for index in range(config.num_classes))
    info = DatasetInfo(name="benchmark", classes=classes)
    height, width = config.crop_size
    serving = ServingConfig(
        add_probabilities=True,
        serving_device="cpu" if config.device == "cpu" else "any",
        max_image_pixels=max(height * width, ServingConfig.max_image_pixels),
        max_batch_size=max(config.batch_size, ServingConfig.max_batch_size),
    )
    saved_model.export(
        Predictor(model),
        info,
        Path(config.export),
        version=1,
        config=serving,
        warmup_size=config.crop_size,
    )


def _flops_file(export: str) -> Path:
    return Path(export).with_name("flops")


def work(config: InferenceConfig) -> None:
    """Calls the SavedModel's signature on demand."""
    import numpy as np
    import tensorflow as tf

    from benchmarks import devices

    devices.require(config.device)
    serve = tf.saved_model.load(f"{config.worker}/1").signatures["serving_default"]
    shape = (config.batch_size, *config.crop_size, 3)
    images = tf.constant(np.random.default_rng(0).integers(0, 256, shape), tf.uint8)
    flops = int(_flops_file(config.worker).read_text())

    def measure():
        serve(images=images)["labels"].numpy()
        start = time.perf_counter()
        for _ in range(config.calls):
            serve(images=images)["labels"].numpy()
        rate = config.calls * config.batch_size / (time.perf_counter() - start)
        return {
            "images/s": rate,
            "GFLOP/s": rate * flops / 1e9,
            "peak MiB": devices.peak_mib(config.device),
        }

    pairs.serve(measure)


if __name__ == "__main__":
    flags.run(main, [InferenceConfig], (__doc__ or "").strip())
