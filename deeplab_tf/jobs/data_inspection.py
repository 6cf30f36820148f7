"""Reports on converted data: its sizes, the share of each class, and pages of samples."""

import json
from pathlib import Path

import numpy as np
from tqdm import tqdm

from deeplab_tf import files
from deeplab_tf.config.programs import InspectConfig
from deeplab_tf.data import catalog, pipeline, records, statistics
from deeplab_tf.data.record_checks import find_bad
from deeplab_tf.evaluation import report
from deeplab_tf.messages import UserError, counted, warn


def main(job: InspectConfig) -> None:
    """Prints a report on each split and writes <split>.png and statistics.json."""
    info = catalog.load_described(job)
    splits = job.splits or _splits_of(info, Path(job.dataset_dir))
    if not splits:
        raise UserError(f"{job.dataset_dir} lists no splits; name them with --splits.")
    tables = {
        split: records.open_split(job.dataset_dir, split, info, labelled=False) for split in splits
    }
    checks = pipeline.checks_of(info, labelled=False)
    for split, table in tables.items():
        known = catalog.as_published(info)
        published = catalog.published_images(known, split) if known else None
        if published not in (None, len(table)):
            warn(f"{split} has {counted(len(table), 'image')}, the published set {published}.")
        bad = find_bad(table, checks, most=job.max_bad_records, split=split)
        tables[split] = table.without(bad)

    folder = Path(job.output_dir or Path(job.dataset_dir) / "inspection")
    files.require_writable(folder, flag="output_dir")
    pages = {  # the names of splits come from dataset.json
        split: files.path_below(folder, split, ".png", advice="leave it out with --splits")
        for split in tables
    }

    print(f"{info.name}: {info.num_classes} classes, ignored label {info.ignore_label}")
    content = {
        split: inspect(job, info, split, table, pages[split]) for split, table in tables.items()
    }
    files.write(folder / "statistics.json", json.dumps(content, indent=1) + "\n")
    print(f"Look at the samples: {', '.join(map(str, pages.values()))}")


def _splits_of(info: catalog.DatasetInfo, folder: Path) -> tuple[str, ...]:
    """Returns the splits in a folder, by its dataset.json or else by the names of the shards."""
    # Without a manifest, info.splits are the published ones, which may not be in this folder.
    if (folder / catalog.MANIFEST).is_file():
        return tuple(info.splits)
    return tuple(records.splits_in(folder)) if folder.is_dir() else ()


def inspect(job: InspectConfig, info, split: str, table, page_file: Path) -> dict:
    """Prints a report on one split and writes its page of samples; returns its numbers."""
    counts = measure(info, split, table)
    labels = counts.labels
    # Significant digits: the weight of a common class may be less than a thousandth.
    weights = [float(f"{weight:.4g}") for weight in counts.class_weights()]
    crop = counts.crop_size()
    absent = [
        name
        for index, name in enumerate(info.class_names)
        if not labels.images[index] and index != info.ignore_label
    ]
    by_area = sorted(counts.sizes, key=lambda size: size[0] * size[1])
    (common, times), *_ = counts.sizes.most_common(1)

    print(f"\n{split}: {counted(len(table), 'image')}")
    print(f"sizes (height x width): {len(by_area)}; smallest {_size(by_area[0])}, largest ", end="")
    print(f"{_size(by_area[-1])}, commonest {_size(common)} ({counted(times, 'image')})")
    if labels.pixels.any() or labels.ignored:
        print(report.class_histogram(info.class_names, labels.pixels, labels.images, weights))
        print(f"ignored pixels: {100 * labels.ignored_share:.2f} %")
        print(f"absent classes: {', '.join(absent) or 'none'}")
        print(f"class weights (median frequency balancing): {','.join(map(str, weights))}")
    else:
        print("no labels")
    if counts.values.count:
        mean, std = (
            ",".join(f"{number:.3f}" for number in numbers)
            for numbers in counts.values.mean_and_deviation()
        )
        print(f"{info.image_kind.described()}, as 0..255: --image_mean={mean} --image_std={std}")
        if info.image_kind.channels >= 3:
            print(
                "to start from weights for RGB, keep the weights' numbers for the first three "
                "channels, and take only further ones from here"
            )
    print(
        f"crop at the images' own size: --train_crop_size={crop[0]},{crop[1]}; for networks of "
        f"official DeepLab {crop[0] + 1},{crop[1] + 1}"
    )

    chosen = np.unique(np.linspace(0, len(table) - 1, job.num_samples).astype(int))
    samples = [records.parse(table.read(int(index)), info.image_kind) for index in chosen]
    pictures = [
        (
            sample["name"].numpy().decode("utf-8", "backslashreplace"),
            info.image_kind.picture(sample["image"].numpy()),
            sample["label"].numpy()[..., 0],
        )
        for sample in samples
    ]
    page = report.sample_page(pictures, info.class_names, info.colors, info.ignore_label)
    report.write_picture(page_file, page)

    return {
        "images": len(table),
        "sizes": {_size(size): count for size, count in sorted(counts.sizes.items())},
        **labels.to_json(info.class_names),
        "class_weights": weights,
        "train_crop_size": crop,
    }


def measure(info, split: str, table):
    """Decodes every image and label of a split and counts them, with a progress bar.

    Returns:
      `data.statistics.Statistics` of the split.
    Raises:
      UserError: naming the image, if a label has another size than its image, or a value that is
        not a class.
    """
    counts = statistics.Statistics.none(info.num_classes)
    batches = pipeline.eval_batches(
        table,
        batch_size=1,
        num_classes=info.num_classes,
        ignore_label=info.ignore_label,
        labelled=False,
        image_kind=info.image_kind,
    )
    for batch in tqdm(batches, total=len(table), desc=split, unit=" images", disable=None):
        if not info.image_kind.is_rgb:
            # The builder has clipped the values, so a factor alone scales them to 0..255.
            counts.values.add(batch.images[0] * (255 / info.image_kind.max_value))
        counts.add(batch.images.shape[1:3], batch.labels[0, :, :, 0], info.ignore_label)
    return counts


def _size(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}"
