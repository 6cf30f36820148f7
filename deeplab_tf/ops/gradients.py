"""Gradient accumulation, and what happens to gradients before the optimizer takes them."""

from collections.abc import Callable, Sequence

import tensorflow as tf

Variables = Sequence[tf.Variable]


def in_parts(
    gradients_of: Callable,
    variables: Variables,
    *,
    parts: int,
    looped: bool,
    loss_shape: tuple[int, ...] = (),
) -> tuple[tf.Tensor, list[tf.Tensor]]:
    """Adds up the losses and gradients of the parts of a batch, in the memory of one part.

    Args:
      gradients_of: takes the index of a part; returns its loss, float32 [*loss_shape], and its
        gradients.
      looped: whether the parts are a loop of the graph, which is traced once. Replicas cannot wait
        for each other in a loop; where they must, false traces one part after the other.
    Returns:
      The loss and the gradients, one for each variable.
    """

    def add(part, *sums):
        with tf.control_dependencies(sums):  # so that the part before has freed its memory
            part = tf.identity(part)
        loss, gradients = gradients_of(part)
        return [
            part + 1,
            *(total + new for total, new in zip(sums, (loss, *gradients), strict=True)),
        ]

    start = [tf.constant(0), tf.zeros(loss_shape), *(tf.zeros(v.shape, v.dtype) for v in variables)]
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

    # XLA cannot tell the size of values[a:b] if `part` is a tensor.
    begin = tf.concat([[part * size], tf.zeros_like(shape[1:])], axis=0)
    sliced = tf.slice(values, begin, tf.concat([[size], shape[1:]], axis=0))

    whole = values.shape[0]
    return tf.ensure_shape(sliced, [whole and whole // parts, *values.shape[1:]])


def clip(gradients: list[tf.Tensor], norm: float) -> list[tf.Tensor]:
    """Scales all gradients by one factor, so that their global norm is at most `norm`."""
    return tf.clip_by_global_norm(gradients, norm)[0]


def multiply(
    gradients: list[tf.Tensor], variables: Variables, *, scopes: tuple[str, ...], factor: float
) -> list[tf.Tensor]:
    """Multiplies the gradients of the variables whose names begin with one of `scopes`."""
    return [
        factor * gradient if variable.name.startswith(scopes) else gradient
        for gradient, variable in zip(gradients, variables, strict=True)
    ]
