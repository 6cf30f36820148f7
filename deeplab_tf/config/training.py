"""Settings of training: optimisation, precision, distribution, and what a run writes when."""

import dataclasses
import math
from dataclasses import dataclass

from deeplab_tf.config.loss import LossConfig
from deeplab_tf.config.setting import MOST_SECONDS, require, setting
from deeplab_tf.config.step import StepConfig
from deeplab_tf.messages import UserError

_ADDONS = ("adamw", "sgdw", "lamb")
_PARTS = 20  # number of saves, and of validations, in a run whose intervals are -1


@dataclass(frozen=True, kw_only=True)
class TrainConfig(LossConfig, StepConfig):
    """How a run optimises, on which devices, and what it writes when."""

    train_logdir: str = setting(
        "", "The run's folder: settings, checkpoints, logs.", may_change=True
    )
    train_batch_size: int = setting(8, "Images per step, over all replicas together.", least=1)
    training_number_of_steps: int = setting(
        30000, "Steps in the whole run; 0 means as many as train_epochs needs.", least=0
    )
    train_epochs: float = setting(
        0.0,
        "With training_number_of_steps=0: epochs, that is passes over train_split, in the run.",
        least=0,
        most=1e6,
    )
    min_training_steps: int = setting(
        0,
        "With train_epochs: the least number of steps, for small data sets.",
        least=0,
        only_with={"train_epochs": ()},
    )
    optimizer: str = setting(
        "momentum",
        "sgd: weight decay on all parameters (SSSegmentation). momentum: L2 only on convolution "
        "kernels, doubled gradients for biases (official DeepLab). adam: with the same L2. adamw, "
        "sgdw: subtract learning rate * weight_decay * parameter from all parameters, as PyTorch's "
        "AdamW does. lamb: adds weight_decay * parameter to its update.",
        choices=("sgd", "momentum", "adam", *_ADDONS),
    )
    base_learning_rate: float = setting(
        1e-4,
        "Learning rate of the first step, or of the first step after a slow start, with any "
        "optimizer but adam.",
        least=0,
        only_with={"optimizer": ("sgd", "momentum", *_ADDONS)},
    )
    adam_learning_rate: float = setting(
        0.001,
        "The same for adam; learning_policy changes it too (in official DeepLab it is constant).",
        least=0,
        only_with={"optimizer": ("adam",)},
    )
    learning_policy: str = setting(
        "poly",
        "How the learning rate falls, with any optimizer: poly as a polynomial, step in steps, "
        "cosine as a cosine.",
        choices=("poly", "step", "cosine"),
    )
    decay_steps: int = setting(
        0,
        "Number of steps in which poly and cosine reach end_learning_rate; 0 means all steps after "
        "the slow start.",
        least=0,
        only_with={"learning_policy": ("poly", "cosine")},
    )
    end_learning_rate: float = setting(
        0.0,
        "Learning rate at the end of poly and cosine.",
        least=0,
        only_with={"learning_policy": ("poly", "cosine")},
    )
    learning_rate_decay_factor: float = setting(
        0.1,
        "Factor that learning_policy=step multiplies the learning rate by.",
        least=0,
        most=1,
        only_with={"learning_policy": ("step",)},
    )
    learning_rate_decay_step: int = setting(
        2000,
        "Number of steps after which learning_policy=step multiplies the learning rate, each time.",
        least=1,
        only_with={"learning_policy": ("step",)},
    )
    slow_start_step: int = setting(
        0,
        "Number of steps of the slow start, which comes before the first step of learning_policy.",
        least=0,
    )
    slow_start_learning_rate: float = setting(
        1e-4,
        "Learning rate of the first step of the slow start.",
        least=0,
        only_with={"slow_start_step": ()},
    )
    slow_start_burnin_type: str = setting(
        "none",
        "none keeps the learning rate of the slow start; linear raises it to base_learning_rate.",
        choices=("none", "linear"),
        only_with={"slow_start_step": ()},
    )
    learning_power: float = setting(
        0.9,
        "Power of the polynomial decay.",
        least=0,
        most=100,
        only_with={"learning_policy": ("poly",)},
    )
    momentum: float = setting(
        0.9,
        "Momentum of the optimizers sgd, momentum and sgdw.",
        least=0,
        below=1,
        only_with={"optimizer": ("sgd", "momentum", "sgdw")},
    )
    adam_epsilon: float = setting(
        1e-8,
        "Number added to the denominators of adam, adamw and lamb.",
        above=0,  # 0 would divide 0 by 0 where a weight has no gradient
        most=1,
        only_with={"optimizer": ("adam", "adamw", "lamb")},
    )
    ema_decay: float = setting(
        0.0,
        "Decay of moving averages of the weights and of batch normalisation's statistics, such as "
        "0.9998; in the first steps (1 + step) / (10 + step), if that is less. Scores, pictures "
        "and exports then use the averages. 0 keeps no averages.",
        least=0,
        below=1,
    )
    weight_decay: float = setting(
        4e-5, "Weight decay; `optimizer` says how it is used.", least=0, most=100
    )
    tf_initial_checkpoint: str = setting(
        "",
        "Weights that a new run starts from: a run's folder or checkpoint, a checkpoint of "
        "official DeepLab, a .pth file (or the address of one), keras.applications:NAME or "
        "keras_cv:PRESET. If empty, it starts from random weights.",
        may_change=True,
    )
    initialize_last_layer: bool = setting(
        True,
        "Whether ASPP, decoder and classifiers start from tf_initial_checkpoint too.",
        only_with={"tf_initial_checkpoint": ()},
    )
    recompute_stages: int = setting(
        -1,
        "Number of parts of the backbone, counted from the stem, that the backward pass computes "
        "again to save memory. 3 parts cost 5 % of the speed on CPUs and 15 % on GPUs. -1 means 3 "
        "on CPUs and 0 on GPUs.",
        choices=(-1, 0, 1, 2, 3, 4, 5),
        may_change=True,
    )
    dtype_policy: str = setting(
        "float32",
        "Keras' precision policy in training. Half precision pays on GPUs; weights, statistics, "
        "logits and loss stay in float32, and eval and export compute in float32.",
        choices=("float32", "mixed_bfloat16", "mixed_float16"),
    )
    jit_compile: bool = setting(
        False,
        "Whether XLA compiles the training step. It is slower on CPUs, and dropout draws other "
        "numbers.",
    )
    steps_per_execution: int = setting(
        1,
        "Steps run in one call. log_steps, save_interval_steps and eval_interval_steps must be "
        "multiples of it.",
        least=1,
        may_change=True,
    )
    distribution_strategy: str = setting(
        "mirrored",
        "mirrored uses the GPUs of this host (see num_gpus), or the CPU if there are none; "
        "one_device uses only the first of them; multi_worker_mirrored uses the GPUs of all hosts "
        "that the environment variable TF_CONFIG names.",
        choices=("mirrored", "one_device", "multi_worker_mirrored"),
        may_change=True,
    )
    num_gpus: int = setting(
        -1,
        "Number of GPUs to use on each host; -1 uses all, 0 uses the CPU.",
        least=-1,
        may_change=True,
    )
    worker_timeout_secs: int = setting(
        600,
        "Seconds that a worker waits at its start for the other workers, and for data_service.",
        least=1,
        most=MOST_SECONDS,
        may_change=True,
        only_with={"distribution_strategy": ("multi_worker_mirrored",), "data_service": ()},
    )
    data_service: tuple[str, ...] = setting(
        (),
        "Addresses HOST:PORT of hosts that run `python -m deeplab_tf.data_service` and make the "
        "training examples; if empty, this host makes them.",
        may_change=True,
    )
    log_steps: int = setting(
        10,
        "Steps between lines of the log, and between values in TensorBoard.",
        least=1,
        may_change=True,
    )
    save_interval_steps: int = setting(
        1000,
        "Steps between checkpoints; -1 means a twentieth of the run.",
        least=-1,
        may_change=True,
    )
    keep_checkpoints: int = setting(
        5,
        "Number of newest checkpoints to keep; the best one is kept too.",
        least=1,
        may_change=True,
    )
    eval_interval_steps: int = setting(
        0,
        "Steps between validations on eval_split; 0 means none, -1 means a twentieth of the run.",
        least=-1,
        may_change=True,
    )
    early_stopping_patience: int = setting(
        0,
        "Number of validations in sequence without a better mean IoU after which the run ends; 0 "
        "trains all steps.",
        least=0,
        may_change=True,
        only_with={"eval_interval_steps": ()},
    )
    early_stopping_min_delta: float = setting(
        0.0,
        "What the mean IoU, 0..1, must exceed the best so far by to count as better for "
        "early_stopping_patience.",
        least=0,
        most=1,
        may_change=True,
        only_with={"early_stopping_patience": ()},
    )
    summary_images: int = setting(
        2,
        "Number of example images to write to TensorBoard: training crops at each checkpoint (at "
        "most one replica's batch), and images of eval_split at each validation.",
        least=0,
        may_change=True,
    )
    tracker: str = setting(
        "",
        "Program that collects the values of many runs, next to TensorBoard: wandb (Weights & "
        "Biases) or mlflow. Install it as deeplab_tf[wandb] or deeplab_tf[mlflow].",
        choices=("", "wandb", "mlflow"),
        may_change=True,
    )

    def __post_init__(self):
        super().__post_init__()

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
            is_address = host and port.isdecimal() and int(port) < 1 << 16
            require(bool(is_address), "data_service", self.data_service, "HOST:PORT[,HOST:PORT...]")

        # Logs, saves and validations happen between calls, never within one.
        together = self.steps_per_execution
        for name in ("log_steps", "save_interval_steps", "eval_interval_steps"):
            interval = getattr(self, name)
            divides = interval == -1 or interval % together == 0
            allowed = f"a divisor of {name} ({interval})"
            require(divides, "steps_per_execution", together, allowed)

    def _require_one_length(self) -> None:
        """Raises UserError unless the run's length is given either in steps or in epochs."""
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

    def learning_rate(self) -> float:
        """Returns the learning rate that the schedule starts from."""
        is_adam = self.optimizer == "adam"
        return self.adam_learning_rate if is_adam else self.base_learning_rate

    def for_images(self, number: int) -> "TrainConfig":
        """Returns these settings with epochs and intervals of -1 turned into numbers of steps.

        A run stores the result, so it continues with the same numbers when it is resumed.

        Args:
          number: number of images in train_split.
        """
        steps = self.training_number_of_steps
        if not steps:
            # Rounded first: an error of the floating-point division must not add a step.
            needed = math.ceil(round(self.train_epochs * number / self.train_batch_size, 6))
            steps = max(needed, self.min_training_steps, 1)

        # A twentieth of the run, rounded up to whole calls, since nothing happens within a call.
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
