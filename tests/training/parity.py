"""Trains the package's model in float64, for `test_parity.py`: -m tests.training.parity FOLDER.

It needs another process, since it makes `tf.float32` mean float64, so that the package computes in
float64. Of the package, only the layer of batch normalisation is replaced, since TensorFlow's fused
kernel does not exist for float64. The package's normalisation over replicas takes its place; it has
the same rule and, like PyTorch, averages the unbiased variance.
"""

import json
import sys
from pathlib import Path

import numpy as np
import tensorflow as tf

tf.float32 = tf.float64  # before the package is imported

from deeplab_tf.config import ModelConfig, TrainConfig  # noqa: E402
from deeplab_tf.data import catalog  # noqa: E402
from deeplab_tf.models import layers  # noqa: E402
from deeplab_tf.models.backbones import resnet  # noqa: E402
from deeplab_tf.training import compilation  # noqa: E402
from deeplab_tf.weights import mapping, ssseg  # noqa: E402
from deeplab_tf.weights.untold import Untold  # noqa: E402


def arrays_of(model) -> dict[str, np.ndarray]:
    """Returns weights, moving statistics and momentum by their names."""
    arrays = {name: v.numpy() for name, v in mapping.variables_of(model).items()}
    slots = zip(model.trainable_variables, model.optimizer._momentums, strict=True)
    return arrays | {f"momentum/{v.name.split(':')[0]}": slot.numpy() for v, slot in slots}


def main(folder: Path) -> None:
    job = json.loads((folder / "job.json").read_text())
    resnet.DEPTHS[50] = (tuple(job["blocks"]), True)
    layers.batch_norm = lambda decay, *, epsilon=1e-5, name: layers.SyncBatchNormalization(
        momentum=decay, epsilon=epsilon, name=name
    )
    set_floatx = tf.keras.backend.set_floatx
    tf.keras.backend.set_floatx = lambda _: set_floatx("float64")

    source = ssseg.read(
        dict(np.load(folder / "peers_0.npz")),
        "peers_0.npz",
        Untold(output_stride=job["output_stride"]),
    )
    names = ("base_learning_rate", "end_learning_rate", "momentum", "weight_decay")
    config = TrainConfig(
        train_batch_size=job["batch_size"],
        training_number_of_steps=job["total_steps"],
        fine_tune_batch_norm=job["fine_tune_batch_norm"],
        optimizer="sgd",
        **{name: job[name] for name in names},
    )
    object.__setattr__(config, "dtype_policy", "float64")  # which the flag does not allow
    classes = tuple((str(index), (index, 0, 0)) for index in range(job["classes"]))
    info = catalog.DatasetInfo(name="parity", classes=classes)
    model_config = ModelConfig(
        **{field: getattr(source.config, field) for field in job["network"]},
        dropout_rate=0.0,
        image_mean=(0.0, 0.0, 0.0),
        image_std=(1.0, 1.0, 1.0),
    )
    model = compilation.compiled_model(model_config, config, info)
    mapping.assign(model, source.arrays)

    losses = []
    with np.load(folder / "batches.npz") as batches:
        images, labels = batches["normalized"], batches["labels"][..., np.newaxis]
    for step, batch in enumerate(zip(images, labels, strict=True), start=1):
        losses.append(float(model.train_on_batch(*batch, return_dict=True)["loss"]))
        if step in job["snapshots"]:
            np.savez(folder / f"ours_{step}.npz", **arrays_of(model))
    kinds = {variable.dtype.name for variable in mapping.variables_of(model).values()}
    result = {"losses": losses, "origins": source.origins, "dtypes": sorted(kinds)}
    (folder / "ours.json").write_text(json.dumps(result))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
