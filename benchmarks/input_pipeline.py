r"""Training examples per second: ours against the ancestor's pipeline in a DataLoader, in turns.

    python -m benchmarks.input_pipeline --images_dir=camvid/images/train \
        --masks_dir=camvid/labels/train

The images are enlarged by mirroring to the size of ADE20K's (683x512) and saved as JPEGs; examples
are made as in the ADE20K recipes: scales 0.5 to 2, crops of 512, mirrored, distorted, padded. As
the limit, TensorFlow only decodes whole images and masks, on all cores; our pipeline decodes just
the window of a crop.
"""

import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks import pairs
from deeplab_tf.config import Config, DataConfig, flags, setting

WIDTH, HEIGHT, QUALITY = 683, 512, 75


@dataclass(frozen=True, kw_only=True)
class InputConfig(Config):
    """What is read, and how often."""

    images_dir: str = setting("", "Folder with images.")
    masks_dir: str = setting("", "Folder with PNG masks of the same names, values below 255.")
    num_images: int = setting(400, "Examples made in a measurement.", least=1)
    batch_size: int = setting(8, "Examples in a batch.", least=1)
    pairs: int = setting(5, "Measurements of each program.", least=1)
    worker: str = setting("", "Folder of the records that this process reads.")
    limit: bool = setting(False, "Whether this process only decodes images_dir and masks_dir.")


def main(config: InputConfig) -> None:
    if config.worker:
        work(config)
        return
    if config.limit:
        decode(config)
        return
    with tempfile.TemporaryDirectory() as folder:
        enlarge(config, Path(folder))
        batch = [f"--num_images={config.num_images}", f"--batch_size={config.batch_size}"]
        folders = [f"--images_dir={folder}/images/train", f"--masks_dir={folder}/masks/train"]
        command = pairs.ours("input_pipeline", *batch, f"--worker={folder}/records")
        programs = [
            pairs.Program("ours", command),
            pairs.Program("DataLoader", pairs.peer("input_pipeline", *folders, *batch)),
        ]
        command = pairs.ours("input_pipeline", *folders, *batch, "--limit")
        limit = pairs.Program("only decoding", command)
        ratio = pairs.compare(programs, pairs=config.pairs, limit=limit)
    print(f"ratio: {ratio:.3f}")


def enlarge(config: InputConfig, folder: Path) -> None:
    """Writes the enlarged images, their masks and the records of both."""
    from datasets import build_folder_data

    for kind in ("images", "masks"):
        (folder / kind / "train").mkdir(parents=True)
    for path in sorted(Path(config.images_dir).iterdir()):
        mask = Path(config.masks_dir) / f"{path.stem}.png"
        for source, target in (
            (path, f"images/train/{path.stem}.jpg"),
            (mask, f"masks/train/{path.stem}.png"),
        ):
            pixels = np.asarray(Image.open(source))
            rows, columns = (
                np.pad(np.arange(cells), (0, max(size - cells, 0)), "symmetric")[:size]
                for cells, size in zip(pixels.shape[:2], (HEIGHT, WIDTH), strict=True)
            )
            Image.fromarray(pixels[rows][:, columns]).save(folder / target, quality=QUALITY)
    (folder / "classes.csv").write_text(
        "index,name,r,g,b\n" + "".join(f"{i},class_{i},{i},0,0\n" for i in range(255))
    )
    build_folder_data.main(
        build_folder_data.FolderConfig(
            images_dir=str(folder / "images"),
            masks_dir=str(folder / "masks"),
            class_list=str(folder / "classes.csv"),
            output_dir=str(folder / "records"),
        )
    )


def work(config: InputConfig) -> None:
    """Makes examples on demand."""
    from deeplab_tf.data import catalog, pipeline, records

    info = catalog.load("", config.worker)
    table = records.open_split(config.worker, "train", info)
    steps = -(-config.num_images // config.batch_size)
    data = DataConfig(
        train_crop_size=(512, 512),
        min_resize_value=512,
        max_resize_value=2048,
        scale_factor_step_size=0,
        one_category_max_ratio=0.75,
        photometric_distortion=True,
    )
    batches = pipeline.train_batches(
        table,
        data,
        info,
        steps=range(steps),
        batch_size=config.batch_size,
        seed=0,
        image_mean=(123.675, 116.28, 103.53),
        centred_padding=True,
    )

    pairs.serve_passes(batches, steps * config.batch_size)


def decode(config: InputConfig) -> None:
    """Decodes whole images and masks on demand."""
    import tensorflow as tf

    folders = (config.images_dir, config.masks_dir)
    paths = tuple(sorted(str(path) for path in Path(folder).iterdir()) for folder in folders)
    files = tf.data.Dataset.from_tensor_slices(paths).repeat().take(config.num_images)
    decoded = files.map(
        lambda image, mask: (
            tf.io.decode_jpeg(tf.io.read_file(image)),
            tf.io.decode_png(tf.io.read_file(mask)),
        ),
        num_parallel_calls=tf.data.AUTOTUNE,
    )

    pairs.serve_passes(decoded, config.num_images)


if __name__ == "__main__":
    flags.run(main, [InputConfig], (__doc__ or "").strip())
