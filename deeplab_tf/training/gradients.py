"""Gradients of a large batch in parts, and what is done to them before the optimizer."""

from collections.abc import Callable, Sequence

import tensorflow as tf

Variables = Sequence[tf.Variable]


def in_parts(
    gradients_of: Callable, variables: Variables, *, parts: int, looped: bool
) -> tuple[tf.Tensor, list[tf.Tensor]]:
    """Adds up what `gradients_of(part)` returns for each part, with the memory of one.

    Args:
      gradients_of: number of a part -> its loss, scalar float32, and its gradients.
      looped: whether the parts are a loop of the graph, traced once. Replicas cannot wait for each
        other in a loop; then the parts are traced one by one.
    Returns:
      The loss and the gradients, one for each variable.
    """

    def add(part, *sums):
        with tf.control_dependencies(sums):  # the part before has given its memory back
            part = tf.identity(part)
        loss, gradients = gradients_of(part)
        return [
            part + 1,
            *(total + new for total, new in zip(sums, (loss, *gradients), strict=True)),
        ]

    start = [tf.constant(0), tf.zeros([]), *(tf.zeros(v.shape, v.dtype) for v in variables)]
    if looped:
        _, loss, *gradients = tf.while_loop(
            lambda part, *_: part < parts, add, start, parallel_iterations=1
        )
        return loss, gradients
    for _ in range(parts):
        start = add(*start)
    return start[1], start[2:]


def slice_of(values: tf.Tensor, part: int | tf.Tensor, parts: int) -> tf.Tensor:
    """Returns one of the equal parts of a batch [B, ...]; `part` may be a tensor.

    Raises:
      tf.errors.InvalidArgumentError: if B is not a multiple of `parts` (ValueError if B is static).
    """
    shape = tf.shape(values)
    message = "The batch cannot be computed in gradient_accumulation_steps equal parts."
    with tf.control_dependencies([tf.debugging.assert_equal(shape[0] % parts, 0, message)]):
        size = shape[0] // parts
    # Not values[a:b], whose size XLA cannot tell if `part` is a tensor.
    begin = tf.concat([[part * size], tf.zeros_like(shape[1:])], axis=0)
    found = tf.slice(values, begin, tf.concat([[size], shape[1:]], axis=0))
    whole = values.shape[0]
    return tf.ensure_shape(found, [whole and whole // parts, *values.shape[1:]])


def clip(gradients: list[tf.Tensor], norm: float) -> list[tf.Tensor]:
    """Scales all gradients by one factor that limits their global norm to `norm`."""
    return tf.clip_by_global_norm(gradients, norm)[0]


def multiply(
    gradients: list[tf.Tensor], variables: Variables, *, scopes: tuple[str, ...], factor: float
) -> list[tf.Tensor]:
    """Multiplies the gradients of the variables whose names begin with one of `scopes`."""
    return [
        factor * gradient if variable.name.startswith(scopes) else gradient
        for gradient, variable in zip(gradients, variables, strict=True)
    ]
