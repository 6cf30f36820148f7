"""Settings of training: optimisation, precision, distribution, and what a run writes when."""

import dataclasses
import math
from dataclasses import dataclass

from deeplab_tf.config.setting import require, setting
from deeplab_tf.config.step import LossConfig, StepConfig
from deeplab_tf.messages import UserError

_ADDONS = ("adamw", "sgdw", "lamb")
_PARTS = 20  # saves and validations of a run whose intervals are -1


@dataclass(frozen=True, kw_only=True)
class TrainConfig(LossConfig, StepConfig):
    """Optimisation, and what a run writes when."""

    train_logdir: str = setting(
        "", "The run's folder: settings, checkpoints, logs.", may_change=True
    )
    train_batch_size: int = setting(8, "Images in a step, over all replicas.", least=1)
    training_number_of_steps: int = setting(
        30000, "Steps in the whole run; 0: as many as train_epochs needs.", least=0
    )
    train_epochs: float = setting(
        0.0,
        "Epochs, passes over train_split, of a run with training_number_of_steps=0.",
        least=0,
    )
    min_training_steps: int = setting(
        0,
        "With train_epochs: the fewest steps, for small data sets.",
        least=0,
        only_with={"train_epochs": ()},
    )
    optimizer: str = setting(
        "sgd",
        "sgd: weight decay on all parameters (SSSegmentation); momentum: L2 on convolution "
        "kernels only and doubled gradients for biases (official DeepLab); adam: with that L2; "
        "adamw, sgdw: take learning rate * weight_decay off all parameters, as PyTorch's AdamW; "
        "lamb: adds weight_decay to its update.",
        choices=("sgd", "momentum", "adam", *_ADDONS),
    )
    base_learning_rate: float = setting(
        1e-4, "Learning rate of the first step, or the first after a slow start.", least=0
    )
    learning_policy: str = setting(
        "poly",
        "How the learning rate falls: as a polynomial, in steps or as a cosine; for any optimizer.",
        choices=("poly", "step", "cosine"),
    )
    decay_steps: int = setting(
        0,
        "Steps in which poly and cosine reach the end; 0: all after the slow start.",
        least=0,
        only_with={"learning_policy": ("poly", "cosine")},
    )
    end_learning_rate: float = setting(
        0.0,
        "Learning rate that poly and cosine end with.",
        least=0,
        only_with={"learning_policy": ("poly", "cosine")},
    )
    learning_rate_decay_factor: float = setting(
        0.1, "Factor of learning_policy=step.", least=0, only_with={"learning_policy": ("step",)}
    )
    learning_rate_decay_step: int = setting(
        2000,
        "Steps between the factors of learning_policy=step.",
        least=1,
        only_with={"learning_policy": ("step",)},
    )
    slow_start_step: int = setting(
        0, "Steps at slow_start_learning_rate, before the policy's first.", least=0
    )
    slow_start_learning_rate: float = setting(
        1e-4,
        "Learning rate of the slow start's first step.",
        least=0,
        only_with={"slow_start_step": ()},
    )
    slow_start_burnin_type: str = setting(
        "none",
        "Slow start: none keeps its rate, linear raises it to base_learning_rate.",
        choices=("none", "linear"),
        only_with={"slow_start_step": ()},
    )
    learning_power: float = setting(
        0.9, "Power of the polynomial decay.", least=0, only_with={"learning_policy": ("poly",)}
    )
    momentum: float = setting(
        0.9,
        "Momentum of sgd, momentum and sgdw.",
        least=0,
        only_with={"optimizer": ("sgd", "momentum", "sgdw")},
    )
    adam_epsilon: float = setting(
        1e-8,
        "Added to the denominators of adam, adamw and lamb.",
        least=0,
        only_with={"optimizer": ("adam", "adamw", "lamb")},
    )
    ema_decay: float = setting(
        0.0,
        "Decay of moving averages of the weights, such as 0.9998; scores, pictures and exports "
        "then use the averages. 0 keeps none.",
        least=0,
    )
    weight_decay: float = setting(4e-5, "Weight decay.", least=0)
    tf_initial_checkpoint: str = setting(
        "",
        "Weights a new run starts from: a run's folder or checkpoint, official DeepLab's "
        "checkpoint, a .pth file (or the address of one), keras.applications:NAME or "
        "keras_cv:PRESET; empty starts from random ones.",
        may_change=True,
    )
    initialize_last_layer: bool = setting(
        True,
        "Whether ASPP, decoder and classifiers start from tf_initial_checkpoint too.",
        only_with={"tf_initial_checkpoint": ()},
    )
    recompute_stages: int = setting(
        -1,
        "Parts of the backbone, from the stem on, that are computed again for their gradients, to "
        "save memory; three cost 5 % of the speed on CPUs, 15 % on GPUs. -1: 3 on CPUs, else none.",
        choices=(-1, 0, 1, 2, 3, 4, 5),
        may_change=True,
    )
    dtype_policy: str = setting(
        "float32",
        "Keras' precision policy in training; half precision pays on GPUs and keeps weights, "
        "statistics, logits and loss in float32. eval and export compute in float32.",
        choices=("float32", "mixed_bfloat16", "mixed_float16"),
    )
    jit_compile: bool = setting(
        False,
        "Whether XLA compiles the training step; slower on CPUs. Dropout then differs.",
    )
    steps_per_execution: int = setting(
        1,
        "Steps run in one call; log, save and eval_interval_steps must be multiples of it.",
        least=1,
        may_change=True,
    )
    distribution_strategy: str = setting(
        "mirrored",
        "mirrored uses this host's GPUs (see num_gpus), or the CPU if it has none; one_device uses "
        "the first; multi_worker_mirrored uses those of all hosts in the environment variable "
        "TF_CONFIG.",
        choices=("mirrored", "one_device", "multi_worker_mirrored"),
        may_change=True,
    )
    num_gpus: int = setting(
        -1, "GPUs used on each host; -1 takes all, 0 the CPU.", least=-1, may_change=True
    )
    worker_timeout_secs: int = setting(
        600,
        "Seconds that a worker waits for the others at its start, and for data_service.",
        least=1,
        may_change=True,
        only_with={"distribution_strategy": ("multi_worker_mirrored",), "data_service": ()},
    )
    data_service: tuple[str, ...] = setting(
        (),
        "Addresses HOST:PORT of hosts that run `python -m "
        "deeplab_tf.data_service` and make the examples; empty makes them here.",
        may_change=True,
    )
    log_steps: int = setting(
        10, "Steps between lines of the log and TensorBoard.", least=1, may_change=True
    )
    save_interval_steps: int = setting(
        1000,
        "Steps between checkpoints; -1: a twentieth of the run.",
        least=-1,
        may_change=True,
    )
    keep_checkpoints: int = setting(
        5, "Newest checkpoints kept; the best one is always kept.", least=1, may_change=True
    )
    eval_interval_steps: int = setting(
        0,
        "Steps between validations on eval_split; 0 never validates, -1: a twentieth of the run.",
        least=-1,
        may_change=True,
    )
    summary_images: int = setting(
        2,
        "Example pictures written to TensorBoard at each checkpoint; at most a replica's batch.",
        least=0,
        may_change=True,
    )

    def __post_init__(self):
        super().__post_init__()
        require(self.momentum < 1, "momentum", self.momentum, "0 up to, not including, 1")
        require(self.ema_decay < 1, "ema_decay", self.ema_decay, "0 up to, not including, 1")
        if self.optimizer in _ADDONS:
            allowed = f"0 with optimizer={self.optimizer}, which keeps no averages"
            require(not self.ema_decay, "ema_decay", self.ema_decay, allowed)
        self._require_one_length()
        slow, steps = self.slow_start_step, self.training_number_of_steps
        fewer = f"less than training_number_of_steps ({steps})"
        require(slow < steps or not steps, "slow_start_step", slow, fewer)
        interval = self.save_interval_steps
        require(interval != 0, "save_interval_steps", interval, "1 or more, or -1")
        for address in self.data_services():
            host, _, port = address.rpartition(":")
            known = host and port.isdecimal() and int(port) < 1 << 16
            require(bool(known), "data_service", self.data_service, "HOST:PORT[,HOST:PORT...]")
        together = self.steps_per_execution
        for name in ("log_steps", "save_interval_steps", "eval_interval_steps"):
            interval = getattr(self, name)
            divides = interval == -1 or interval % together == 0
            allowed = f"a divisor of {name} ({interval})"
            require(divides, "steps_per_execution", together, allowed)

    def _require_one_length(self) -> None:
        steps, epochs = self.training_number_of_steps, self.train_epochs
        if steps and epochs:
            raise UserError(
                f"--training_number_of_steps={steps} and --train_epochs={epochs:g} both say how "
                "long to train; give 0 for one of them."
            )
        if not (steps or epochs):
            raise UserError(
                "--training_number_of_steps=0 trains for --train_epochs, which is 0 too; give one "
                "of them."
            )

    def for_images(self, number: int) -> "TrainConfig":
        """Returns these settings with epochs and shares of the run turned into steps.

        A run stores the result, and so continues with the same numbers.

        Args:
          number: images in train_split.
        """
        steps = self.training_number_of_steps
        if not steps:
            needed = math.ceil(round(self.train_epochs * number / self.train_batch_size, 6))
            steps = max(needed, self.min_training_steps)

        # Saves and validations come between calls of several steps, never within one.
        calls = math.ceil(steps / _PARTS / self.steps_per_execution)
        part = calls * self.steps_per_execution

        return dataclasses.replace(
            self,
            training_number_of_steps=steps,
            train_epochs=0.0,
            min_training_steps=0,
            save_interval_steps=part
            if self.save_interval_steps == -1
            else self.save_interval_steps,
            eval_interval_steps=part
            if self.eval_interval_steps == -1
            else self.eval_interval_steps,
        )

    def data_services(self) -> tuple[str, ...]:
        """Returns the addresses of --data_service, each HOST:PORT."""
        return tuple(address.strip().removeprefix("grpc://") for address in self.data_service)
