r"""Stores the values of palette masks as grey PNGs, as the official package does first.

    python -m datasets.remove_gt_colormap \
        --original_gt_folder=VOCdevkit/VOC2012/SegmentationClass \
        --output_dir=VOCdevkit/VOC2012/SegmentationClassRaw

The builders of this package read palette masks as they are and need no such files. They are for
other programs.
"""

from dataclasses import dataclass
from pathlib import Path

from PIL import Image
from tqdm import tqdm

from deeplab_tf import files
from deeplab_tf.config import Config, flags, require_given, setting
from deeplab_tf.conversion import masks
from deeplab_tf.data import decoding
from deeplab_tf.messages import UserError, counted

# Every value stays as it is. Masks whose channels differ hold colours, not values, and are refused.
_AS_STORED = masks.MaskCoding(num_classes=256, ignore_label=255, index_map=tuple(range(256)))


@dataclass(frozen=True, kw_only=True)
class ColormapConfig(Config):
    """Where the masks are, and where the grey ones go."""

    original_gt_folder: str = setting(
        "./VOCdevkit/VOC2012/SegmentationClass", "Folder of the palette masks."
    )
    segmentation_format: str = setting("png", "Ending of the masks' names.", choices=("png",))
    output_dir: str = setting(
        "./VOCdevkit/VOC2012/SegmentationClassRaw", "Folder for the grey masks."
    )

    def __post_init__(self):
        super().__post_init__()
        require_given("original_gt_folder", self.original_gt_folder, "the folder of the masks")
        require_given("output_dir", self.output_dir, "a path")


def main(config: ColormapConfig) -> None:
    """Writes a grey mask for each mask in the folder, under the same name.

    Raises:
      UserError: if there is no mask, one holds colours and not values, or would be overwritten.
    """
    folder, output_dir = Path(config.original_gt_folder), Path(config.output_dir)
    if not folder.is_dir():
        raise UserError(
            f"--original_gt_folder={folder} is not a folder; give the one with the masks."
        )
    if output_dir.resolve() == folder.resolve():
        raise UserError(
            f"--output_dir={output_dir} is the folder of the original masks, which would be "
            "overwritten; give another one."
        )
    paths = sorted(folder.glob("[!.]*.png"))
    if not paths:
        raise UserError(f"--original_gt_folder={folder} holds no .png; give the one with masks.")

    files.require_writable(output_dir, flag="output_dir")
    for path in tqdm(paths, unit=" masks", disable=None):
        values = masks.read_mask(path, _AS_STORED)
        content = decoding.encode_png(Image.fromarray(values))
        files.write(output_dir / path.name, content, is_lasting=False)
    print(f"{output_dir}: {counted(len(paths), 'mask')}.")


def run() -> None:
    flags.run(main, [ColormapConfig], (__doc__ or "").strip())


if __name__ == "__main__":
    run()
