"""Predicts several images at once, one on each replica of a tf.distribute strategy."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from deeplab_tf.evaluation.predictor import Predictor

# Labels [H, W], and probabilities, float32 [H, W, classes], if they are wanted.
Result = tuple[np.ndarray, np.ndarray | None]
Predict = Callable[[Sequence[np.ndarray]], list[Result]]


def one_by_one(predictor: Any, *, with_probabilities: bool = False) -> Predict:
    """Returns a function from images, [H, W, C], to results, one image after the other.

    Args:
      predictor: has `labels` and, if they are wanted, `labels_and_probabilities`.
    """

    def predict(images: Sequence[np.ndarray]) -> list[Result]:
        return [result(image[np.newaxis]) for image in images]

    def result(batch: np.ndarray) -> Result:
        if not with_probabilities:
            return np.asarray(predictor.labels(batch))[0], None
        labels, probabilities = predictor.labels_and_probabilities(batch)
        return np.asarray(labels)[0], np.asarray(probabilities)[0]

    return predict


def predict_on(
    strategy: tf.distribute.Strategy, predictor: Predictor, *, with_probabilities: bool = False
) -> Predict:
    """Returns a function from up to one image per replica to their results.

    It takes images, [H, W, C], whose sizes may differ. It is traced once for all sizes. The
    predictor's model must have been made in the strategy's scope.
    """
    replicas = strategy.num_replicas_in_sync
    if replicas == 1:
        return one_by_one(predictor, with_probabilities=with_probabilities)

    @tf.function(input_signature=[[predictor.images_spec(1)] * replicas], autograph=False)
    def predict(images):
        def in_replica():
            context = tf.distribute.get_replica_context()
            index = tf.get_static_value(context.replica_id_in_sync_group)
            labels, probabilities = predictor.predict(images[index])
            return (labels, probabilities) if with_probabilities else (labels,)

        return [strategy.experimental_local_results(each) for each in strategy.run(in_replica)]

    def results_of(images: Sequence[np.ndarray]) -> list[Result]:
        batches = [image[np.newaxis] for image in images]
        for batch in batches:
            predictor.require_fitting(batch)
        # Every replica needs an image: idle ones get the first again, and their results are unused.
        filled = batches + batches[:1] * (replicas - len(batches))
        labels, *probabilities = predict([tf.constant(batch) for batch in filled])
        return [
            (labels[i].numpy()[0], probabilities[0][i].numpy()[0] if with_probabilities else None)
            for i in range(len(images))
        ]

    return results_of
