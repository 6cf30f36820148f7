"""Makes training examples for trainers on other hosts: python -m deeplab_tf.data_service --port=N.

`deeplab_tf.train --data_service=HOST:N` then takes its batches from this process. Run it only among
hosts that trust each other: anybody who reaches the port can run any TensorFlow operation in it.
"""

import socket
from dataclasses import dataclass

from deeplab_tf.config import Config, flags, require, setting


@dataclass(frozen=True, kw_only=True)
class DataServiceConfig(Config):
    """How trainers reach this host."""

    port: int = setting(
        5050,
        "Port that trainers connect to; the next port sends the examples. 0 takes free ports.",
        least=0,
    )
    host: str = setting(
        "", "Name by which trainers reach this host; if empty, the name that the host has itself."
    )

    def __post_init__(self):
        super().__post_init__()
        require(self.port < 65535, "port", self.port, "0 to 65534")


def main(config: DataServiceConfig) -> None:
    """Serves until the process is ended."""
    import tensorflow as tf

    from deeplab_tf.data import service

    tf.config.set_visible_devices([], "GPU")  # a trainer on this host needs their memory
    service.serve(config.port, config.host or socket.gethostname())


def run() -> None:
    flags.run(main, [DataServiceConfig], (__doc__ or "").strip())


if __name__ == "__main__":
    run()
