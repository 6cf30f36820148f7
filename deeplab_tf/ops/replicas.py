"""Replicas of a tf.distribute strategy, as seen by one of them. Outside of one there is one."""

import tensorflow as tf


def number() -> int:
    """Returns how many replicas take a step together."""
    context = tf.distribute.get_replica_context()
    return context.num_replicas_in_sync if context else 1


def index() -> int | tf.Tensor:
    """Returns this replica's place among them, from 0."""
    context = tf.distribute.get_replica_context()
    return context.replica_id_in_sync_group if context else 0


def total(values):
    """Returns the sum over all replicas of a tensor, or of each tensor of a list."""
    if number() == 1:
        return values
    context = tf.distribute.get_replica_context()
    return context.all_reduce(tf.distribute.ReduceOp.SUM, values)
