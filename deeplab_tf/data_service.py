"""Makes training examples for trainers on other hosts: python -m deeplab_tf.data_service --port=N.

`deeplab_tf.train --data_service=HOST:N` then takes its batches from here. For hosts that trust each
other only: anybody who reaches the port can run any TensorFlow operation in this process.
"""

import socket
from dataclasses import dataclass

from deeplab_tf.config import Config, flags, require, setting


@dataclass(frozen=True, kw_only=True)
class DataServiceConfig(Config):
    """Where trainers find this host."""

    port: int = setting(
        5050, "Port that trainers ask at; the next one sends the examples. 0 takes any.", least=0
    )
    host: str = setting("", "Name by which trainers reach this host; empty: its own name.")

    def __post_init__(self):
        super().__post_init__()
        require(self.port < 65535, "port", self.port, "0 to 65534")


def main(config: DataServiceConfig) -> None:
    """Serves until the process is ended."""
    import tensorflow as tf

    from deeplab_tf.data import service

    tf.config.set_visible_devices([], "GPU")  # they are the trainers'
    service.serve(config.port, config.host or socket.gethostname())


def run() -> None:
    flags.run(main, [DataServiceConfig], (__doc__ or "").strip())


if __name__ == "__main__":
    run()
