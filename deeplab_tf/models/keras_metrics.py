"""Checks the metrics given to `DeepLab.compile(metrics=..., weighted_metrics=...)`.

Metrics get labels, and logits enlarged to the labels' size. Pixels that do not count are masked as
Keras does it: their label is 0 and their sample weight is 0, even for metrics without weights.
"""

import functools
import warnings
from typing import Any

import tensorflow as tf

from deeplab_tf.models.inputs import InputError

_NAMES = ("accuracy", "acc", "sparse_categorical_accuracy", "sparse_top_k_categorical_accuracy")
_CLASSES = (
    "SparseCategoricalAccuracy",
    "SparseTopKCategoricalAccuracy",
    "SparseCategoricalCrossentropy",
    "IoU",
    "MeanIoU",
    "MeanMetricWrapper",
)
_WAY_OUT = (
    "allowed of Keras' metrics: accuracy, sparse_categorical_accuracy, "
    "SparseCategoricalCrossentropy(from_logits=True), IoU and MeanIoU; or use "
    "deeplab_tf.evaluation.metrics.MeanIoU, or your own on class numbers and logits"
)


def checked(metrics: Any, *, num_classes: int) -> Any:
    """Returns metrics as Keras takes them for one output.

    Args:
      metrics: a metric or a list of them, or {"logits": metrics}.
    Raises:
      InputError: if a metric would score nonsense, since it does not take class numbers and logits.
    """
    if isinstance(metrics, dict):
        if set(metrics) != {"logits"}:
            raise InputError(
                f"There are metrics for {sorted(metrics)}; allowed: only metrics for logits."
            )
        metrics = metrics["logits"]

    for metric in tf.nest.flatten(metrics):
        _check(metric, num_classes)
    return metrics


def functions(metrics: Any) -> tuple:
    """Returns only the metrics that are functions of labels and logits, or means of one."""
    others = (str, tf.keras.metrics.Metric, type(None))
    found = []
    for metric in tf.nest.flatten(metrics):
        if type(metric) is tf.keras.metrics.MeanMetricWrapper:
            function = functools.partial(metric._fn, **metric._fn_kwargs)
            found.append(functools.update_wrapper(function, metric._fn))
        elif not isinstance(metric, others):
            found.append(metric)
    return tuple(found)


def check_function(function: Any, labels: tf.Tensor, logits: tf.Tensor) -> None:
    """Checks that a function returns a number for each pixel, since no others can be masked.

    Raises:
      InputError: if it returns another shape.
    """
    shape = function(labels, logits).shape
    if not shape.is_compatible_with(labels.shape[:3]):
        name = getattr(function, "__name__", type(function).__name__)
        raise InputError(
            f"The metric {name} returned the shape {shape} for labels {labels.shape}; return a "
            "number for each pixel, [B, H, W], or write a tf.keras.metrics.Metric that leaves out "
            "pixels whose sample_weight is 0."
        )


def _check(metric, num_classes):
    """Raises InputError if a metric is none, or one of Keras that would score nonsense."""
    keras_names = vars(tf.keras.metrics)
    name = getattr(metric, "name", getattr(metric, "__name__", str(metric)))
    if isinstance(metric, str) and metric not in _NAMES:
        raise InputError(f"The metric {metric!r} is not possible here; {_WAY_OUT}.")
    if isinstance(metric, type):
        raise InputError(f"The metric {name} is a class; give an instance of it, {name}(...).")
    if not isinstance(metric, str | None) and not callable(metric):
        raise InputError(f"The metric {metric!r} is not a metric; {_WAY_OUT}.")

    allowed = [keras_names[kind] for kind in (*_NAMES, *_CLASSES) if kind in keras_names]
    is_of_keras = type(metric) in keras_names.values() or metric in keras_names.values()
    if is_of_keras and type(metric) not in allowed and metric not in allowed:
        raise InputError(
            f"The metric {name} is not defined on class numbers and logits; {_WAY_OUT}."
        )

    config = metric.get_config() if isinstance(metric, tf.keras.metrics.Metric) else {}
    if is_of_keras and not config.get("from_logits", True):
        raise InputError(f"The metric {name} takes probabilities; give it from_logits=True.")

    if type(metric) in (tf.keras.metrics.IoU, tf.keras.metrics.MeanIoU):
        if metric.num_classes < num_classes:  # more do no harm: classes without pixels do not count
            raise InputError(
                f"The metric {name} counts {metric.num_classes} classes, and the model has "
                f"{num_classes}; give it num_classes={num_classes}."
            )
        if not metric.sparse_y_true:
            raise InputError(
                f"The metric {name} takes labels with one number per class, and here they are "
                "class numbers; leave sparse_y_true=False out."
            )
        metric.sparse_y_pred = False  # so that it takes the class of the highest logit
        warnings.warn(
            f"Keras' {type(metric).__name__} counts in float32 and stops at 16,777,216 pixels; "
            "deeplab_tf.evaluation.metrics.MeanIoU counts exactly.",
            stacklevel=4,
        )
