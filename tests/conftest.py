"""Fixtures: small data sets made in code, and two logical CPU devices to distribute over."""

import functools
import os
import zlib
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")  # as the programs do, on every CPU

import numpy as np
import pytest
import tensorflow as tf

from datasets import build_shapes_data
from deeplab_tf.config import DataConfig, EvalConfig, Experiment, ModelConfig, TrainConfig
from deeplab_tf.conversion import building, encoding, masks
from deeplab_tf.data import catalog

SHARED = Path(__file__).resolve().parents[2] / "shared"


def pytest_addoption(parser):
    parser.addoption("--part", metavar="K/N", help="runs only the K-th of N parts of the tests")


@pytest.hookimpl(trylast=True)  # after -m and -k
def pytest_collection_modifyitems(config, items):
    """Takes one part of the tests, always the same ones."""
    if not config.getoption("--part"):
        return
    part, parts = map(int, config.getoption("--part").split("/"))
    if not 1 <= part <= parts:
        raise pytest.UsageError(f"--part={part}/{parts}: K is 1 to N")

    chosen = [item for item in items if zlib.crc32(item.nodeid.encode()) % parts == part - 1]
    config.hook.pytest_deselected(items=[item for item in items if item not in chosen])
    items[:] = chosen


def pytest_configure():
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)


@pytest.fixture
def shared() -> Path:
    """The folder of golden files; tests that need it skip where it is not."""
    if not SHARED.is_dir():
        pytest.skip(f"{SHARED} is not here")
    return SHARED


@pytest.fixture(scope="session")
def shapes_dir(tmp_path_factory) -> Path:
    """The shapes data set as files: 9 training and 5 validation images."""
    folder = tmp_path_factory.mktemp("shapes")
    build_shapes_data.main(
        build_shapes_data.ShapesConfig(output_dir=str(folder), num_train=9, num_val=5)
    )
    return folder


@pytest.fixture(scope="session")
def records_dir(shapes_dir, tmp_path_factory) -> Path:
    """The same as records, with its dataset.json."""
    folder = tmp_path_factory.mktemp("records")
    for split in ("train", "val"):
        write_shapes(shapes_dir, folder, split)
    return folder


def write_shapes(shapes_dir: Path, folder: Path, split: str, *, times: int = 1) -> None:
    """Converts a split of the shapes, each of its images under `times` names."""
    classes = catalog.read_class_table(shapes_dir / "classes.csv")
    info = catalog.DatasetInfo(name="shapes", classes=classes)
    coding = masks.MaskCoding(num_classes=info.num_classes, ignore_label=255)
    files = sorted((shapes_dir / "images" / split).iterdir())
    pairs = [
        encoding.FilePair(
            path.stem if times == 1 else f"{path.stem}_{i}",
            path,
            shapes_dir / "masks" / split / f"{path.stem}.png",
        )
        for i in range(times)
        for path in files
    ]
    building.convert_split(
        pairs,
        functools.partial(encoding.encode_pair, coding=coding),
        output_dir=folder,
        info=info,
        split=split,
        num_shards=2,
        num_processes=1,
    )


@pytest.fixture
def tiny_experiment(records_dir, tmp_path) -> Experiment:
    return tiny_run(records_dir, tmp_path / "run")


def tiny_run(records_dir: Path, folder: Path) -> Experiment:
    """A run of 4 steps on 33x33 crops, with augmentation and auxiliary head on."""
    return Experiment(
        model=ModelConfig(
            model_variant="resnet_v1b_18",
            atrous_rates=(1, 2, 3),
            aspp_convs_filters=8,
            auxiliary_filters=8,
            initializer="he_normal",  # small first steps: rounding does not grow in four of them
        ),
        data=DataConfig(
            dataset_dir=str(records_dir),
            train_crop_size=(33, 33),
            one_category_max_ratio=0.75,
            photometric_distortion=True,
        ),
        train=TrainConfig(
            train_logdir=str(folder),
            train_batch_size=4,
            training_number_of_steps=4,
            optimizer="sgd",
            base_learning_rate=0.01,
            log_steps=1,
            save_interval_steps=2,
            summary_images=1,
            recompute_stages=0,  # traces in half the time
        ),
        eval=EvalConfig(),
    )


@functools.cache
def two_replicas() -> tf.distribute.Strategy:
    """The one MirroredStrategy of the test process: collectives of two would be confused."""
    return tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])


# As `distribution.choose_strategy` has it for one CPU, and several replicas.
STRATEGIES = {1: tf.distribute.get_strategy, 2: two_replicas}


def coordinate_pair(height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """An image that is a picture of its label: columns of 20 pixels with the values 0, 1, 2, ..."""
    columns = np.broadcast_to(np.arange(width) // 20, [height, width]).astype(np.uint8)
    return np.repeat(columns[..., np.newaxis], 3, axis=-1), columns[..., np.newaxis]
