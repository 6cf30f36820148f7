import collections
import dataclasses

import numpy as np
import pytest
from PIL import Image

from deeplab_tf.config import DataConfig
from deeplab_tf.data import catalog, pipeline, records
from deeplab_tf.data.record_checks import naming_bad_records
from deeplab_tf.messages import UserError

MEAN = (123.675, 116.28, 103.53)
CONFIG = DataConfig(
    train_crop_size=(24, 40), photometric_distortion=True, one_category_max_ratio=0.75
)
BEYOND = dataclasses.replace(
    CONFIG,
    hsv_jitter=(0.1, 0.5, 0.4),
    randaugment_operations=2,
    max_blur_sigma=1.0,
    max_rotation_degrees=20.0,
    grid_mask_probability=0.5,
    grid_mask_size=(8, 16),
    cutmix_probability=0.6,
)


@pytest.fixture
def table(records_dir):
    return records.open_split(records_dir, "train", catalog.load("shapes", records_dir))


def batches(table, first, last, *, seed=0, num_classes=7, batch_size=2, services=(), **share):
    classes = tuple((str(index), (index, 0, 0)) for index in range(num_classes))
    info = catalog.DatasetInfo(name="shapes", classes=classes)
    dataset = pipeline.train_batches(
        table,
        CONFIG,
        info,
        steps=range(first, last),
        batch_size=batch_size,
        seed=seed,
        image_mean=MEAN,
        centred_padding=True,
        share=pipeline.Share(**share),
        services=services,
    )
    with naming_bad_records(table, pipeline.checks_of(info)):
        return [(images.numpy(), labels.numpy()) for images, labels in dataset]


def assert_equal(first, second):
    assert len(first) == len(second)
    for a, b in zip(first, second, strict=True):
        np.testing.assert_array_equal(a[0], b[0])
        np.testing.assert_array_equal(a[1], b[1])


def test_batches_have_the_promised_form(table):
    ((images, labels),) = batches(table, 0, 1)
    assert images.shape == (2, 24, 40, 3) and images.dtype == np.float32
    assert labels.shape == (2, 24, 40, 1) and labels.dtype == np.int32
    assert images.min() >= 0 and images.max() <= 255
    assert set(np.unique(labels)) <= {*range(7), 255}


def test_the_same_seed_gives_the_same_batches_and_another_does_not(table):
    once = batches(table, 0, 6)
    assert_equal(once, batches(table, 0, 6))
    assert any(
        (a[0] != b[0]).any() for a, b in zip(once, batches(table, 0, 6, seed=1), strict=True)
    )


@pytest.mark.parametrize("step", [1, 5, 11])  # 9 images: epochs end within steps 4, 9 and 13
def test_a_resumed_run_reads_what_it_would_have_read(table, step):
    assert_equal(batches(table, step, 14), batches(table, 0, 14)[step:])


def test_every_epoch_holds_every_image_once_in_a_new_order():
    order = [
        (int(position), int(index))
        for position, index in pipeline._shuffled_order(7, first=3, last=21, seed=5)
    ]
    assert [position for position, _ in order] == list(range(3, 21))
    whole = [index for _, index in pipeline._shuffled_order(7, first=0, last=21, seed=5)]
    epochs = [[int(i) for i in whole[start : start + 7]] for start in (0, 7, 14)]
    assert all(sorted(epoch) == list(range(7)) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]


@pytest.mark.parametrize("batch_size", [1, 2, 8])
def test_evaluation_reads_every_image_once_at_its_own_size(records_dir, shapes_dir, batch_size):
    table = records.open_split(records_dir, "val", catalog.load("", records_dir))
    names = collections.Counter()
    for batch in pipeline.eval_batches(
        table, batch_size=batch_size, num_classes=7, ignore_label=255
    ):
        assert batch.images.shape[:3] == batch.labels.shape[:3]
        for name, image in zip(batch.names, batch.images, strict=True):
            with Image.open(shapes_dir / "images" / "val" / f"{name}.jpg") as expected:
                np.testing.assert_array_equal(image, expected)
            names[name] += 1
    assert names == {f"val_{number:04d}": 1 for number in range(5)}


def test_images_of_one_size_share_a_batch(tmp_path, table):
    twice = records.RecordTable(
        table.files, np.repeat(table.file_index, 2), np.repeat(table.offsets, 2)
    )
    sizes = [
        len(batch.names)
        for batch in pipeline.eval_batches(twice, batch_size=2, num_classes=7, ignore_label=255)
    ]
    assert sizes == [2] * 9


def test_a_label_outside_the_class_list_names_its_image(table):
    message = r"'train_\d{4}' .* holds the value [3-6]"
    with pytest.raises(UserError, match=message):
        batches(table, 0, 9, num_classes=3)


def test_the_shares_of_workers_make_up_each_batch(table):
    whole = batches(table, 1, 4, batch_size=4)  # across the end of an epoch of 9
    shares = [
        batches(table, 1, 4, batch_size=4, replicas=4, workers=2, worker=worker)
        for worker in (0, 1)
    ]
    parts = [
        part for step in range(3) for share in shares for part in share[2 * step : 2 * step + 2]
    ]
    assert all(len(images) == 1 for images, _ in parts) and len(parts) == 12
    joined = [
        tuple(np.concatenate(kind) for kind in zip(*parts[4 * step : 4 * step + 4], strict=True))
        for step in range(3)
    ]
    assert_equal(joined, whole)


@pytest.mark.slow
def test_everything_beyond_the_recipes_is_a_function_of_the_position(table, monkeypatch):
    """And not of how a batch is divided, where a run was resumed, or which record is next to it."""
    plain = batches(table, 0, 4, batch_size=4)
    monkeypatch.setattr(f"{__name__}.CONFIG", BEYOND)
    whole = batches(table, 0, 4, batch_size=4)
    assert all((a[0] != b[0]).any() for a, b in zip(plain, whole, strict=True))
    for images, labels in whole:
        assert images.min() >= -1e-3 and images.max() <= 255.001
        assert set(np.unique(labels)) <= {*range(7), 255}

    assert_equal(whole[2:], batches(table, 2, 4, batch_size=4))
    halves = [batches(table, 0, 4, batch_size=4, replicas=2, workers=2, worker=w) for w in (0, 1)]
    joined = [
        tuple(np.concatenate(parts) for parts in zip(*both, strict=True))
        for both in zip(*halves, strict=True)
    ]
    assert_equal(whole, joined)


@pytest.mark.slow
def test_randaugment_changes_images_only(table, monkeypatch):
    plain = batches(table, 0, 4)
    with_operations = dataclasses.replace(CONFIG, randaugment_operations=3)
    monkeypatch.setattr(f"{__name__}.CONFIG", with_operations)
    changed = batches(table, 0, 4)
    for (image, label), (before, label_before) in zip(changed, plain, strict=True):
        np.testing.assert_array_equal(label, label_before)
        assert (image != before).any() and image.min() >= 0 and image.max() <= 255
    assert_equal(changed[2:], batches(table, 2, 4))
