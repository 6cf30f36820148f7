"""Trains a run, from its settings to its last checkpoint, by Keras' compile and fit."""

import contextlib
import dataclasses
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from deeplab_tf import __version__
from deeplab_tf.config import Experiment, backbones, flags
from deeplab_tf.data import catalog, pipeline, records, service
from deeplab_tf.data.record_checks import find_bad, naming_bad_records
from deeplab_tf.distribution import Workers, choose_strategy, devices_of, on_gpus
from deeplab_tf.messages import UserError
from deeplab_tf.runs import averaging
from deeplab_tf.runs.run_dir import FollowersRunDir, RunDir
from deeplab_tf.startup.process_state import seeded
from deeplab_tf.training import initialization, overview, run_checks, step_checks, trackers
from deeplab_tf.training.between_steps import BetweenSteps
from deeplab_tf.training.compilation import compiled_model
from deeplab_tf.training.progress import say
from deeplab_tf.training.recorder import Recorder
from deeplab_tf.training.signals import Interrupted, StopOnSignal


class Trainer:
    """One run: `Trainer(experiment).run()` starts it, or continues it where it stopped.

    Args:
      experiment: all settings.
      strategy: a tf.distribute strategy to use instead of the one that the settings name.
    Raises:
      UserError: if this run cannot be started or continued; its folder is then unchanged.
    """

    def __init__(self, experiment: Experiment, strategy: tf.distribute.Strategy | None = None):
        trackers.require_installed(experiment.train.tracker)
        data = experiment.data
        self.info = catalog.load_described(data)

        self.train_table = records.open_split(
            data.dataset_dir,
            data.train_split,
            self.info,
            advice="name one of them by --train_split, or build it",
        )
        config = experiment.train.for_images(len(self.train_table))
        experiment = dataclasses.replace(experiment, train=config)
        self.experiment = experiment = run_checks.fitted_to_images(experiment, self.info)

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
                step_checks.warn_of_small_crops(experiment)
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
            else:
                experiment = run_checks.with_first_weights(self.run_dir, experiment)
                self.experiment = experiment
            with seeded(config.seed), self.strategy.scope():
                self.model = compiled_model(experiment.model, config, self.info)
            self._tell(overview.trained(self.model, config))
            if is_new:
                self._initialize()

            # Last, so that whatever was refused above has left nothing in the folder.
            self.run_dir.open_for_training(experiment, self.info, self.train_table)
        self.checkpoint = averaging.RunState(self.model)

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
            first = self._train_records.read(0)
            height, width = records.parse_size(first, self.info.image_kind).numpy().tolist()
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

        It may end early, as --early_stopping_patience says. If a signal arrives, it saves after the
        step in progress and ends the process.
        """
        stop = StopOnSignal(self.workers)
        interrupted = contextlib.suppress(Interrupted)
        with (
            self.run_dir.sole_training(),
            stop,
            interrupted,
            self.workers.reports_lost_workers(),
        ):
            first_step = self._restore()
            self.run_dir.metrics.forget_after(first_step)
            with self._recording(first_step) as recorder:
                self._fit(first_step, recorder, stop)

        self.workers.wait_for_all()

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

    def ending(self, step: int) -> str:
        """Returns what to say at the end of a run that is at `step`; the chief knows it."""
        train, path = self.experiment.train, self.run_dir.path
        text = f"{path} is at step {step} of {train.training_number_of_steps}."
        if step < train.training_number_of_steps:
            text = overview.stopped_early(path, step, train)
        best = overview.ending(path, self.run_dir.metrics.best())
        return "\n".join(filter(None, [text, best]))

    @contextlib.contextmanager
    def _recording(self, first_step: int) -> Iterator[Recorder]:
        """Opens TensorBoard's file and the tracker on the chief, and closes them at the end."""
        if not self.workers.is_chief:
            nowhere = trackers.Tracker(self.run_dir.path, {})
            yield Recorder(self.run_dir, tf.summary.create_noop_writer(), nowhere)
            return

        settings = flags.settings_of(self.experiment)
        with contextlib.ExitStack() as open_ones:
            name = self.experiment.train.tracker if self._has_work(first_step) else ""
            tracker = trackers.open_tracker(name, self.run_dir.path, settings)
            open_ones.push(lambda kind, *_: tracker.finish(failed=_is_failure(kind)))

            writer = tf.summary.create_file_writer(str(self.run_dir.path))
            open_ones.callback(writer.close)
            recorder = Recorder(self.run_dir, writer, tracker)
            recorder.recipe(settings, step=first_step)
            yield recorder

    def _has_work(self, first_step: int) -> bool:
        """Whether a run at this step has something left to train or to score."""
        train = self.experiment.train
        is_unscored = bool(train.eval_interval_steps and first_step) and not (
            self.run_dir.metrics.scores_at(first_step)
        )
        is_at_its_end = first_step >= train.training_number_of_steps
        return is_unscored or not (is_at_its_end or self.run_dir.stopped_early(train))

    def _tell(self, line: str) -> None:
        if self.workers.is_chief:
            say(line)

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

        if step > 0 and self.workers.is_chief:
            last_step = self.experiment.train.training_number_of_steps
            best = self.run_dir.metrics.best()
            self._tell(overview.continued(self.run_dir.path, step, last_step, best))
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

    def _fit(self, first_step: int, recorder: Recorder, stop: StopOnSignal) -> None:
        between = BetweenSteps(
            self.experiment,
            self.info,
            self.model,
            workers=self.workers,
            run=self.run_dir,
            eval_table=self.eval_table,
            recorder=recorder,
            stop=stop,
            save=self._save,
            first_batch=self._first_batch,
        )

        # The run may have been killed after a checkpoint was saved and before it was scored.
        has_scores = bool(self.run_dir.metrics.scores_at(first_step))
        if not self.workers.of_chief(int(has_scores)):
            between.catch_up(first_step)

        last_step = self.experiment.train.training_number_of_steps
        if first_step >= last_step or between.is_enough():
            return

        together = self.experiment.train.steps_per_execution
        if first_step % together:
            raise UserError(
                f"--steps_per_execution={together} does not divide {first_step}, the step that "
                "this run continues at; give a number that does, such as 1."
            )

        services = self.experiment.train.data_services()
        service.require_examples(services)
        with service.watched(services), self._naming_bad_records(), between.shown():
            self.model.fit(
                self.batches(first_step, last_step),
                epochs=1,
                steps_per_epoch=last_step - first_step,
                verbose=0,
                callbacks=_untimed([*between.callbacks, stop], self.model),
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

    def _first_batch(self) -> tuple[np.ndarray, np.ndarray]:
        """Returns the images and labels of the first step."""
        with self._naming_bad_records():
            images, labels = next(iter(self._examples(range(1))))
        return images.numpy(), labels.numpy()

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
            centred_padding=not backbones.is_official(self.experiment.model.model_variant),
            **how,
        )


def _is_failure(error: type[BaseException] | None) -> bool:
    """Whether an error that ended a run is one, and not a signal in the middle of a validation."""
    return error is not None and not issubclass(error, Interrupted)


def _untimed(chosen: list[tf.keras.callbacks.Callback], model: tf.keras.Model) -> Any:
    """Returns the callbacks as a list that does not warn of slow ones, such as validation."""
    together = tf.keras.callbacks.CallbackList(chosen, model=model)
    together._check_timing = False
    return together
