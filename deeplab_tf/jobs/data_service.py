"""Makes training examples for trainers on other hosts."""

import socket

import tensorflow as tf

from deeplab_tf.config.programs import DataServiceConfig
from deeplab_tf.data import service


def main(config: DataServiceConfig) -> None:
    """Serves until the process is ended."""
    tf.config.set_visible_devices([], "GPU")  # a trainer on this host needs their memory
    service.serve(config.port, config.host or socket.gethostname())
