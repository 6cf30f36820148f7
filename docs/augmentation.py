"""Makes augmentation.jpg: crops of the shapes data, by each augmentation beyond the recipes.

    python -m docs.augmentation RECORDS docs/augmentation.jpg

RECORDS is the folder of records that `make demo` writes, runs/demo/records. The upper row has the
images, the lower one their labels; ignored pixels are white.
"""

import sys

import numpy as np
from PIL import Image, ImageDraw

from deeplab_tf.config import DataConfig
from deeplab_tf.data import catalog, pipeline, records

SIDE = 96
MEAN = (123.675, 116.28, 103.53)
SETTINGS = {
    "none": {},
    "hsv_jitter": {"hsv_jitter": (0.3, 0.7, 0.4)},
    "randaugment": {"randaugment_operations": 2, "randaugment_magnitude": 0.7},
    "max_blur_sigma": {"max_blur_sigma": 3.0},
    "max_rotation_degrees": {"max_rotation_degrees": 60.0},
    "grid_mask": {"grid_mask_probability": 1.0, "grid_mask_size": (24, 32)},
    "cutmix": {"cutmix_probability": 1.0},
}


def crops(folder: str, settings: dict) -> tuple[np.ndarray, np.ndarray, catalog.DatasetInfo]:
    """Returns four training crops, uint8, and their labels."""
    config = DataConfig(
        dataset_dir=folder,
        train_crop_size=(SIDE, SIDE),
        min_scale_factor=1.0,
        max_scale_factor=1.0,
        **settings,
    )
    info = catalog.load_described(config)
    table = records.open_split(folder, "train", info)
    batches = pipeline.train_batches(
        table,
        config,
        info,
        steps=range(1),
        batch_size=4,
        seed=2,
        image_mean=MEAN,
        centred_padding=True,
    )
    images, labels = next(iter(batches.as_numpy_iterator()))
    return np.round(images).astype(np.uint8), labels[..., 0], info


def main(folder: str, path: str) -> None:
    """Writes the page."""
    wide, gap = SIDE * 2 + 6, 18
    page = Image.new("RGB", (wide * len(SETTINGS), 2 * SIDE * 2 + 2 * gap), "white")
    draw = ImageDraw.Draw(page)
    for column, (name, settings) in enumerate(SETTINGS.items()):
        images, labels, info = crops(folder, settings)
        colors = np.full([256, 3], 255, np.uint8)
        colors[: info.num_classes] = [one.color for one in info.classes]
        draw.text((column * wide + 2, 3), name, fill="black")
        for row, group in enumerate((images, colors[labels])):
            for number in range(4):
                place = (
                    column * wide + number % 2 * SIDE,
                    gap + row * (2 * SIDE + gap) + number // 2 * SIDE,
                )
                page.paste(Image.fromarray(group[number]), place)
    page.save(path, quality=75)


if __name__ == "__main__":
    main(*sys.argv[1:])
