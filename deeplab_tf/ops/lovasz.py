"""The Lovasz extension of the Jaccard loss: value and gradient of each class from one sort."""

import tensorflow as tf


def jaccard_losses(
    probabilities: tf.Tensor, classes: tf.Tensor, weights: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns the Lovasz-softmax loss of each class in each group of pixels.

    (Berman et al. 2018, arXiv:1705.08790, eq. 9 and algorithm 1.) A pixel of weight 2 counts as two
    equal pixels, and one of weight 0 as none. Only classes that a group has are computed, one after
    the other: each sorts the pixels of its group. The gradient is computed along with the loss, so
    what is kept for it is one tensor of the size of `probabilities`.

    Args:
      probabilities: float32 [G, P, C], of G groups of P pixels.
      classes: int32 [G, P], every one a class.
      weights: float32 [G, P], not negative.
    Returns:
      losses: float32 [G, C], 0 for absent classes.
      present: bool [G, C], whether a group has pixels of a class.
    """
    groups, pixels, number = tf.unstack(tf.shape(probabilities))
    number = probabilities.shape[-1] or number
    present = _present(classes, weights, number)

    @tf.custom_gradient
    def losses_of(probabilities):
        columns = tf.reshape(tf.transpose(probabilities, [0, 2, 1]), [groups * number, pixels])

        def of_class(entry):
            column, index = entry
            group, own_class = index // number, index % number
            own = tf.equal(classes[group], own_class)
            return tf.cond(
                present[group, own_class],
                lambda: _loss_and_gradient(column, own, weights[group]),
                lambda: (tf.zeros([]), tf.zeros_like(column)),
            )

        losses, slopes = tf.map_fn(
            of_class,
            (columns, tf.range(groups * number)),
            fn_output_signature=(tf.float32, tf.float32),
            parallel_iterations=1,  # to hold the sorted pixels of one class at a time
        )

        def gradient(upstream):
            scaled = tf.reshape(slopes, [groups, number, pixels]) * upstream[..., tf.newaxis]
            return tf.transpose(scaled, [0, 2, 1])

        return tf.reshape(losses, [groups, number]), gradient

    return losses_of(probabilities), present


def _present(classes, weights, number):
    """Returns which of the classes have pixels of a positive weight, bool [G, C]."""
    # One comparison for each class holds no map of all classes at once.
    counted = weights > 0
    has_class = tf.map_fn(
        lambda own_class: tf.reduce_any(tf.equal(classes, own_class) & counted, axis=1),
        tf.range(number),
        fn_output_signature=tf.bool,
    )
    return tf.transpose(has_class)


def _loss_and_gradient(column, own, weights):
    """Returns the loss of a class that is present, and its gradient by the probabilities.

    Args:
      column: the class's probability at each pixel, [P].
      own: whether each pixel is of this class, [P].
      weights: [P].
    """
    errors = tf.where(own, 1 - column, column)
    order = tf.argsort(errors, direction="DESCENDING")

    # In double precision, since float32 cannot count more than 2**24 pixels.
    sorted_weights = tf.cast(tf.gather(weights, order), tf.float64)
    is_own = tf.cast(tf.gather(own, order), tf.float64)
    slopes = tf.cast(_slopes(is_own * sorted_weights, (1 - is_own) * sorted_weights), tf.float32)

    loss = tf.reduce_sum(tf.gather(errors, order) * slopes)
    by_pixel = tf.gather(slopes, tf.math.invert_permutation(order))
    return loss, tf.where(own, -by_pixel, by_pixel)


def _slopes(own, others):
    """Returns by how much each pixel raises the Jaccard loss of those before it, float64 [P].

    These are the differences of 1 - intersection / union, each as one product: differences of the
    quotients themselves would cancel, since neighbouring pixels change them by a millionth.

    Args:
      own, others: the pixels' weights, sorted by falling error; one of both is 0 at each pixel.
    """
    intersection = tf.maximum(tf.reduce_sum(own) - tf.cumsum(own), 0)
    union = tf.reduce_sum(own) + tf.cumsum(others)
    return (own + intersection * others / (union - others)) / union
