"""Trains a run, from its settings to its last checkpoint, by Keras' compile and fit."""

import contextlib
import dataclasses
import signal
import sys
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from deeplab_tf import __version__
from deeplab_tf.config import (
    Experiment,
    LossConfig,
    ModelConfig,
    StepConfig,
    TrainConfig,
    flags,
    require,
)
from deeplab_tf.data import catalog, pipeline, records, service
from deeplab_tf.data.record_checks import find_bad, naming_bad_records
from deeplab_tf.distribution import (
    Workers,
    choose_strategy,
    devices_of,
    on_gpus,
    require_even_batch,
    require_gpus,
)
from deeplab_tf.evaluation import evaluator, report
from deeplab_tf.evaluation.predictor import Predictor, build_predictor
from deeplab_tf.messages import UserError, counted
from deeplab_tf.models.deeplab import DeepLab, build_model
from deeplab_tf.runs import averaging
from deeplab_tf.runs.run_dir import FollowersRunDir, RunDir
from deeplab_tf.startup.process_state import keras_settings, seeded
from deeplab_tf.training import callbacks, initialization, overview, run_checks, step_checks
from deeplab_tf.training.optimizers import build_optimizer, build_slots
from deeplab_tf.training.schedules import build_schedule


def compiled_model(
    model_config: ModelConfig, config: TrainConfig, info: catalog.DatasetInfo
) -> DeepLab:
    """Builds the model and compiles it for training; the optimizer's variables exist too.

    Call it in the strategy's scope.

    Raises:
      UserError: if the replicas cannot share the batch equally, --jit_compile is given for
        replicas that are not GPUs, or --label_weights is not one number for each class.
    """
    replicas = tf.distribute.get_strategy().num_replicas_in_sync
    require_even_batch(config.train_batch_size, replicas, parts=config.gradient_accumulation_steps)
    if config.jit_compile and replicas > 1:
        require_gpus("--jit_compile")
    require(
        len(config.label_weights) in (0, info.num_classes),
        "label_weights",
        config.label_weights,
        f"empty, or {info.num_classes} numbers, one for each class",
    )

    with keras_settings(config.dtype_policy):
        model = build_model(model_config, num_classes=info.num_classes)

        # A checkpoint is restored into the optimizer's variables, so they must exist before.
        optimizer = build_optimizer(config, build_schedule(config))
        build_slots(optimizer, model.trainable_variables)

        fields = [*dataclasses.fields(StepConfig), *dataclasses.fields(LossConfig)]
        settings = {field.name: getattr(config, field.name) for field in fields}
        model.compile(
            optimizer,
            ignore_label=info.ignore_label,
            check_values=False,  # the records are checked when they are read
            recompute_stages=_recompute_stages(config),
            jit_compile=config.jit_compile,
            steps_per_execution=config.steps_per_execution,
            **settings,
        )
    return model


def _recompute_stages(config: TrainConfig) -> int:
    """Returns --recompute_stages, or the default for the device: it costs GPUs more speed."""
    if config.recompute_stages >= 0:
        return config.recompute_stages
    return 0 if on_gpus() else 3


class Trainer:
    """One run: `Trainer(experiment).run()` starts it, or continues it where it stopped.

    Args:
      experiment: all settings.
      strategy: a tf.distribute strategy to use instead of the one that the settings name.
    Raises:
      UserError: if this run cannot be started or continued; its folder is then unchanged.
    """

    def __init__(self, experiment: Experiment, strategy: tf.distribute.Strategy | None = None):
        data = experiment.data
        self.info = catalog.load_described(data)

        self.train_table = records.open_split(
            data.dataset_dir,
            data.train_split,
            self.info,
            advice="name one of them by --train_split, or build it",
        )
        config = experiment.train.for_images(len(self.train_table))
        self.experiment = experiment = dataclasses.replace(experiment, train=config)

        self.eval_table = None
        if config.eval_interval_steps:
            self.eval_table = records.open_split(
                data.dataset_dir,
                experiment.eval.eval_split,
                self.info,
                advice="build it (build_folder_data --val_fraction=0.2 sets images aside), name "
                "another by --eval_split, or train without validation: --eval_interval_steps=0",
            )

        if not config.train_logdir:
            raise UserError("--train_logdir is empty; give the folder for the run's files.")
        step_checks.require_batch_statistics(experiment)

        self.strategy = strategy or choose_strategy(config)
        with self.strategy.scope():
            step_checks.require_possible(
                experiment,
                num_classes=self.info.num_classes,
                replicas=self.strategy.num_replicas_in_sync,
                on_gpus=on_gpus(),
            )
        self.workers = Workers.of(self.strategy)
        kind = RunDir if self.workers.is_chief else FollowersRunDir
        self.run_dir = kind(config.train_logdir)

        with self.workers.reports_lost_workers(), contextlib.ExitStack() as lock:
            # Wait until all workers are connected: only then do they learn that the chief ended,
            # if it refuses the run.
            self.workers.total(0)
            told = ""
            if self.workers.is_chief:
                run_checks.require_place(self.run_dir)
                lock.enter_context(self.run_dir.sole_training())
                told = run_checks.require_trainable(
                    self.run_dir, experiment, self.info, self.train_table
                )
            # Only now: TensorFlow must not run anything before the strategy is chosen.
            self._leave_bad_records_out()
            self._tell("\n".join(filter(None, [self._overview(), told])))

            service.wait_for(config.data_services(), patience=config.worker_timeout_secs)
            self._require_equal_workers()

            is_new = not self.workers.of_chief(len(self.run_dir.checkpoints.steps()))
            if is_new:
                self._fetch_initial_weights()
            with seeded(config.seed), self.strategy.scope():
                self.model = compiled_model(experiment.model, config, self.info)
            if is_new:
                self._initialize()

            # Last, so that whatever was refused above has left nothing in the folder.
            self.run_dir.open_for_training(experiment, self.info, self.train_table)
        self.checkpoint = tf.train.Checkpoint(model=self.model, optimizer=self.model.optimizer)

    def _leave_bad_records_out(self) -> None:
        """Finds up to --max_bad_records bad records of each split, and sets the records to use."""
        data, checks = self.experiment.data, pipeline.checks_of(self.info)

        # In training, another record takes the place of a bad one, so that the order of the others
        # stays. A run that stopped at a bad record can then continue exactly: its earlier steps are
        # the same as if the record had been replaced from the start.
        bad = find_bad(self.train_table, checks, most=data.max_bad_records, split=data.train_split)
        self._train_records = self.train_table.with_next_in_place_of(bad)

        if self.eval_table is not None:
            split = self.experiment.eval.eval_split
            bad = find_bad(self.eval_table, checks, most=data.max_bad_records, split=split)
            self.eval_table = self.eval_table.without(bad)

    def _overview(self) -> str:
        data = self.experiment.data
        folder = Path(data.dataset_dir)
        described = (folder / catalog.MANIFEST).is_file()
        splits = catalog.read_manifest(folder).get("splits", {}) if described else {}
        return overview.describe(
            self.experiment,
            self.info,
            images=len(self.train_table),
            image_size=self._first_size(),
            eval_images=len(self.eval_table or ()),
            ignored=overview.ignored_share(splits.get(data.train_split, {})),
            devices=devices_of(self.strategy, self.workers.count),
            continues=bool(self.run_dir.checkpoints.steps()),
        )

    def _first_size(self) -> tuple[int, int] | None:
        """Returns height and width of the first training image; None if its record lacks them."""
        try:
            height, width = records.parse_size(self._train_records.read(0)).numpy().tolist()
        except (tf.errors.OpError, UnicodeDecodeError):  # the latter if it quotes other bytes
            return None  # training reads this record too, and reports what is wrong with it
        return (height, width) if height and width else None

    def _require_equal_workers(self) -> None:
        settings = flags.flagfile_text(self.experiment)
        self.workers.require_equal(
            "The settings", settings, "start all workers with the same command"
        )

        versions = f"{__version__} {tf.__version__}"
        self.workers.require_equal(
            "The versions of this package and of TensorFlow", versions, "install the same on all"
        )

        for table in filter(None, (self.train_table, self._train_records, self.eval_table)):
            self.workers.require_equal(
                f"The records in --dataset_dir={self.experiment.data.dataset_dir}",
                table.digest(),
                "give all workers the same files",
            )

    def run(self) -> int:
        """Trains up to the last step; returns the number of steps done.

        If a signal arrives, it saves after the step in progress and ends the process.
        """
        last_step = self.experiment.train.training_number_of_steps
        stop = callbacks.StopOnSignal(self.workers)
        interrupted = contextlib.suppress(callbacks.Interrupted)
        with (
            self.run_dir.sole_training(),
            stop,
            interrupted,
            self.workers.reports_lost_workers(),
        ):
            first_step = self._restore()
            self.run_dir.metrics.forget_after(first_step)

            writer = tf.summary.create_noop_writer()
            if self.workers.is_chief:
                writer = tf.summary.create_file_writer(str(self.run_dir.path))
            self._fit(first_step, last_step, writer, stop)

        self.workers.wait_for_all()
        writer.close()

        done = int(self.model.optimizer.iterations.numpy())
        if stop.received:
            line = f"Stopped and saved at step {done}; the same command continues."
            if stop.fault and stop.received == signal.SIGPIPE:
                print(line, file=sys.stderr)
                raise stop.fault
            if not stop.fault:
                self._tell(line)
            sys.exit(130 if stop.received == signal.SIGINT else 0)
        return done

    def _tell(self, line: str) -> None:
        if self.workers.is_chief:
            callbacks.say(line)

    def _restore(self) -> int:
        """Restores the newest checkpoint on all workers, or saves the first; returns its step."""
        step = None
        if self.workers.is_chief:
            step = self.run_dir.checkpoints.restore_newest(self.checkpoint)

        # The chief decides, since only it may set a damaged checkpoint aside.
        step = self.workers.of_chief(-1 if step is None else step)
        if step < 0:
            # From now on, a run without checkpoints has lost them and must not start again.
            self._save(0, keep=1)
        elif not self.workers.is_chief:
            self.run_dir.checkpoints.restore(self.checkpoint, step)

        if step > 0:
            left = counted(max(self.experiment.train.training_number_of_steps - step, 0), "step")
            self._tell(f"Continuing {self.run_dir.path} at step {step}, {left} left.")
        return max(step, 0)

    def _save(self, step: int, *, keep: int) -> None:
        self.run_dir.checkpoints.save(self.checkpoint, step, keep=keep, lost=self.workers.lost)

    def _fetch_initial_weights(self) -> None:
        """Downloads --tf_initial_checkpoint if it is an address, before time is spent on a model.

        The chief downloads first, since hosts often share the cache's folder: the others then find
        the file there.
        """
        for is_turn in (self.workers.is_chief, not self.workers.is_chief):
            if is_turn:
                initialization.fetch(self.experiment.train.tf_initial_checkpoint)
            self.workers.total(0)  # wait for the others

    def _initialize(self) -> None:
        config = self.experiment.train
        if config.tf_initial_checkpoint:
            self._tell(
                initialization.initialize(
                    self.model,
                    config.tf_initial_checkpoint,
                    last_layers=config.initialize_last_layer,
                    logits_only=config.last_layers_contain_logits_only,
                )
            )

        # The averages were created from the random weights; restart them from the loaded ones.
        averaging.start(self.model)

    def _fit(self, first_step: int, last_step: int, writer, stop: callbacks.StopOnSignal) -> None:
        all_callbacks = [*self._callbacks(writer, stop), stop]

        # The run may have been killed after a checkpoint was saved and before it was scored.
        has_scores = bool(self.run_dir.metrics.scores_at(first_step))
        is_scored = self.workers.of_chief(int(has_scores))
        for callback in all_callbacks:
            if isinstance(callback, callbacks.Validation) and not is_scored:
                callback.catch_up(first_step)

        if first_step >= last_step:
            return

        together = self.experiment.train.steps_per_execution
        if first_step % together:
            raise UserError(
                f"--steps_per_execution={together} does not divide {first_step}, the step that "
                "this run continues at; give a number that does, such as 1."
            )

        services = self.experiment.train.data_services()
        service.require_examples(services)
        with service.watched(services), self._naming_bad_records():
            self.model.fit(
                self.batches(first_step, last_step),
                epochs=1,
                steps_per_epoch=last_step - first_step,
                verbose=0,
                callbacks=all_callbacks,
            )

    def batches(self, first_step: int, last_step: int) -> tf.data.Dataset:
        """Returns the training batches of steps first_step..last_step (exclusive).

        The images of a step come in one part per replica; a worker's replicas take them in turn.
        """
        share = pipeline.Share(
            replicas=self.strategy.num_replicas_in_sync,
            workers=self.workers.count,
            worker=self.workers.index,
        )
        services = self.experiment.train.data_services()
        return self.strategy.distribute_datasets_from_function(
            lambda _: self._examples(range(first_step, last_step), share=share, services=services)
        )

    def _naming_bad_records(self) -> contextlib.AbstractContextManager[None]:
        return naming_bad_records(self._train_records, pipeline.checks_of(self.info))

    def _examples(self, steps: range, **how: Any) -> tf.data.Dataset:
        return pipeline.train_batches(
            self._train_records,
            self.experiment.data,
            self.info,
            steps=steps,
            batch_size=self.experiment.train.train_batch_size,
            seed=self.experiment.train.seed,
            image_mean=self.experiment.model.image_mean,
            **how,
        )

    def _callbacks(
        self, writer: tf.summary.SummaryWriter, stop: callbacks.StopOnSignal
    ) -> list[tf.keras.callbacks.Callback]:
        config = self.experiment.train
        last_step = config.training_number_of_steps
        bars = []
        if sys.stderr and sys.stderr.isatty() and self.workers.is_chief:
            bars = [callbacks.ProgressBar(config.train_batch_size, last_step)]

        pauses = {"save": config.save_interval_steps, "validation": config.eval_interval_steps}
        pace = callbacks.Pace(last_step, pauses=pauses)
        training_log = callbacks.TrainingLog(
            self.run_dir,
            writer,
            pace=pace,
            log_steps=config.log_steps,
            batch_size=config.train_batch_size,
            last_step=last_step,
            tell=self._tell,
            print_lines=not bars,
        )

        predictor = build_predictor(self.model, self.experiment.data, self.experiment.eval)
        saver = callbacks.Saver(
            self._saving(writer, predictor, stop),
            pace,
            save_interval_steps=config.save_interval_steps,
        )

        # Keras calls them in this order. A loss that is not finite ends the run before the step is
        # logged or saved.
        chosen = [callbacks.StopOnNonFiniteLoss(self.run_dir), *bars, training_log]
        if self.eval_table is not None:
            chosen.append(
                callbacks.Validation(
                    self._validating(writer, predictor, stop),
                    saver,
                    pace,
                    eval_interval_steps=config.eval_interval_steps,
                    last_step=last_step,
                )
            )
        return [*chosen, saver]

    def _saving(self, writer, predictor: Predictor, stop: callbacks.StopOnSignal):
        """Returns the function that saves a step and shows TensorBoard some predictions."""
        config = self.experiment.train
        images, labels = [], []
        if config.summary_images and self.workers.is_chief:
            with self._naming_bad_records():
                batch_images, batch_labels = next(iter(self._examples(range(1))))
            images = np.round(batch_images[: config.summary_images].numpy()).astype(np.uint8)
            labels = batch_labels[: config.summary_images].numpy()[..., 0]

        evaluation = self.experiment.eval
        if evaluation.inference_mode == "whole" and evaluation.eval_crop_size:
            # Training crops may be larger than the size that images are padded to for scoring.
            evaluation = dataclasses.replace(evaluation, eval_crop_size=())
            predictor = build_predictor(self.model, self.experiment.data, evaluation)

        @tf.function(autograph=False)
        def predict_in_replica(images):
            # Called outside a replica, this would gather each moving average from all hosts, of
            # which only the chief is here.
            labels = self.strategy.run(lambda: predictor.predict(images)[0])
            return self.strategy.experimental_local_results(labels)[0]

        has_one_replica = self.strategy.num_replicas_in_sync == 1
        predict = predictor.labels if has_one_replica else predict_in_replica

        def save(step: int) -> None:
            self._require_finite_weights(step)
            self._save(step, keep=config.keep_checkpoints)
            if len(images) and not stop.received:
                with averaging.averaged(self.model):
                    predicted = predict(images).numpy()

                colors = self.info.colors
                strips = [
                    report.strip(image, [report.colorize(label, colors) for label in pair])
                    for image, *pair in zip(images, labels, predicted, strict=True)
                ]

                with writer.as_default(step=step):
                    tf.summary.image("train/image_label_prediction", np.stack(strips))

        return save

    def _require_finite_weights(self, step: int) -> None:
        for variable in self.model.trainable_variables:
            if not tf.reduce_all(tf.math.is_finite(variable)):
                raise UserError(
                    f"The weights {variable.name} are no longer finite at step {step}, which was "
                    f"not saved; {self.run_dir.checkpoints.last_good()}. Lower "
                    "--base_learning_rate (with adam: --adam_learning_rate)."
                )

    def _validating(self, writer, predictor: Predictor, stop: callbacks.StopOnSignal):
        """Returns the function that scores the model after a step and records the scores."""
        evaluation = self.experiment.eval
        table = self.eval_table
        assert table is not None  # `_callbacks` sets validation up only if there are records for it

        def validate(step: int) -> None:
            with averaging.averaged(self.model):
                result = evaluator.evaluate(
                    predictor,
                    table,
                    self.info,
                    split=evaluation.eval_split,
                    batch_size=evaluation.eval_batch_size,
                    workers=self.workers,
                    meet=stop.meet,
                )

            self.run_dir.metrics.record(result.to_json(self.info, step))
            self.run_dir.metrics.note_best()
            self.run_dir.checkpoints.prune(keep=self.experiment.train.keep_checkpoints)

            with writer.as_default(step=step):
                for name in ("miou", "pixel_accuracy", "mean_accuracy"):
                    tf.summary.scalar(f"eval/{name}", getattr(result.scores, name))

            if self.workers.is_chief:
                line = f"{evaluation.eval_split} {result.scores.miou_name} {result.scores.miou:.4f}"
                if not result.matrix.any():
                    folder = self.experiment.data.dataset_dir
                    line = evaluator.nothing_to_score(result, self.info, where=folder)
                callbacks.say(f"step {step}  {line}")

        return validate
