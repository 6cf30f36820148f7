"""Makes training examples for trainers on other hosts: python -m deeplab_tf.data_service --port=N.

`deeplab_tf.train --data_service=HOST:N` then takes its batches from this process. Run it only among
hosts that trust each other: anybody who reaches the port can run any TensorFlow operation in it.
"""

from deeplab_tf import jobs
from deeplab_tf.config import flags
from deeplab_tf.config.programs import DataServiceConfig


def main(job: DataServiceConfig) -> None:
    jobs.start("data_service", job)


def run() -> None:
    flags.run(main, [DataServiceConfig], (__doc__ or "").strip())


if __name__ == "__main__":
    run()
