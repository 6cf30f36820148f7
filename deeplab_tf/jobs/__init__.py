"""What the programs do, one module for each program; all of them import TensorFlow.

TensorFlow's import takes seconds. So a program does not import its job: it calls `start` once the
flags have been checked, and `--help` and mistyped flags are answered at once.
"""

import importlib
from typing import Any

from deeplab_tf.startup.garbage_collector import resting_collector


def start(name: str, *arguments: Any) -> None:
    """Imports a job and calls its `main`.

    Args:
      name: the job's module in this folder.
      arguments: what its `main` takes.
    """
    with resting_collector() as start_is_over:
        job = importlib.import_module(f"{__name__}.{name}")
        start_is_over()

        job.main(*arguments)
