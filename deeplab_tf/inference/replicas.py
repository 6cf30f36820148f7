"""Predicts several images at once, one on each replica of a tf.distribute strategy."""

from collections.abc import Callable, Sequence

import numpy as np
import tensorflow as tf

from deeplab_tf.evaluation.predictor import Predictor


def labels_on(
    strategy: tf.distribute.Strategy, predictor: Predictor
) -> Callable[[Sequence[np.ndarray]], list[np.ndarray]]:
    """Returns a function from up to one image per replica to their labels.

    It takes images, uint8 [H, W, 3], whose sizes may differ, and returns labels [H, W]. It is
    traced once for all sizes. The predictor's model must have been made in the strategy's scope.
    """
    replicas = strategy.num_replicas_in_sync
    if replicas == 1:
        return lambda images: [
            np.asarray(predictor.labels(image[np.newaxis]))[0] for image in images
        ]

    @tf.function(
        input_signature=[[tf.TensorSpec([1, None, None, 3], tf.uint8)] * replicas], autograph=False
    )
    def predict(images):
        def in_replica():
            context = tf.distribute.get_replica_context()
            index = tf.get_static_value(context.replica_id_in_sync_group)
            return predictor.predict(images[index])[0]

        return strategy.experimental_local_results(strategy.run(in_replica))

    def labels_of(images):
        batches = [image[np.newaxis] for image in images]
        for batch in batches:
            predictor.require_fitting(batch)
        # Every replica needs an image: those without one get the first again, and nobody looks.
        filled = batches + batches[:1] * (replicas - len(batches))
        found = predict([tf.constant(batch) for batch in filled])
        return [labels.numpy()[0] for labels in found[: len(images)]]

    return labels_of
