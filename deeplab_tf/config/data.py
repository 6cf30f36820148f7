"""Data settings: which records are read, and how training examples are augmented."""

from dataclasses import dataclass

from deeplab_tf.config.augmentation import AugmentationConfig
from deeplab_tf.config.setting import MOST_PIXELS_OF_A_SIDE, MOST_SCALE, require, setting

MOST_CLASSES = 256  # labels are bytes


@dataclass(frozen=True, kw_only=True)
class DataConfig(AugmentationConfig):
    """Which records are read, and how training examples are augmented."""

    dataset: str = setting(
        "",
        "Name of the data set; if empty, the one in <dataset_dir>/dataset.json. If the name is a "
        "known one, the records must have that data set's classes. ade20k may be one of two: "
        "dataset.json says which, and records without one are read as the official package "
        "writes them, with 151 classes and class 0 ignored (ade20k_151).",
        may_change=True,
    )
    dataset_dir: str = setting(
        "", "Folder with the TFRecord shards and dataset.json.", may_change=True
    )
    class_list: str = setting(
        "",
        "For records of your own without dataset.json: file with the names of the classes, in the "
        "order of their values in the labels.",
        may_change=True,
    )
    num_classes: int = setting(
        0,
        "For records of your own without dataset.json: number of classes, with the background; "
        "without class_list they are called class_0, class_1, ... 0 leaves it to dataset.json, "
        "class_list or dataset.",
        least=0,
        most=MOST_CLASSES,
        may_change=True,
    )
    ignore_label: int = setting(
        -1,
        "For records of your own without dataset.json: value of pixels that do not count. -1 takes "
        "the value in dataset.json or of dataset, or 255 if neither has one.",
        least=-1,
        most=255,
        may_change=True,
    )
    max_bad_records: int = setting(
        0,
        "Number of damaged records that each split may have. If it is not 0, all records are read "
        "at the start; scores leave bad ones out, and training takes the next good one in place of "
        "each.",
        may_change=True,
    )
    train_split: str = setting("train", "Split to train on.")
    train_crop_size: tuple[int, ...] = setting(
        (513, 513),
        "Height and width of training crops, in pixels.",
        least=1,
        most=MOST_PIXELS_OF_A_SIDE,
    )
    min_resize_value: int = setting(
        0,
        "Length, in pixels, that the shorter side of an image is resized to; 0 keeps the size.",
        least=0,
        most=MOST_PIXELS_OF_A_SIDE,
    )
    max_resize_value: int = setting(
        0,
        "With min_resize_value: largest length, in pixels, of the longer side; 0 sets no limit.",
        least=0,
        most=MOST_PIXELS_OF_A_SIDE,
    )
    resize_factor: int = setting(
        0,
        "With min_resize_value: resizes by official DeepLab's rule, by which both sides become a "
        "multiple of this number plus one; 0 takes SSSegmentation's rule.",
        least=0,
        most=1024,
        only_with={"min_resize_value": ()},
    )
    min_scale_factor: float = setting(
        0.5, "Smallest random scale in training.", least=0.01, most=MOST_SCALE
    )
    max_scale_factor: float = setting(
        2.0, "Largest random scale in training.", least=0.01, most=MOST_SCALE
    )
    scale_factor_step_size: float = setting(
        0.25,
        "Step between the random scales; 0 draws any scale in the range.",
        least=0,
        most=MOST_SCALE,
    )
    one_category_max_ratio: float = setting(
        1.0,
        "A crop is drawn again, up to 9 times, if one class has this share of its pixels or is the "
        "only class in it; 1 keeps all crops.",
        least=0.01,
        most=1,
    )
    photometric_distortion: bool = setting(
        False, "Whether to vary brightness, contrast, saturation and hue in training."
    )

    def __post_init__(self):
        super().__post_init__()

        require(self.num_classes != 1, "num_classes", self.num_classes, "0, or 2 or more")
        size = self.train_crop_size
        require(len(size) == 2, "train_crop_size", size, "two numbers, height,width")
        step = self.scale_factor_step_size
        require(step == 0 or step >= 1e-6, "scale_factor_step_size", step, "0, or 1e-06 or more")
        require(
            self.min_scale_factor <= self.max_scale_factor,
            "min_scale_factor",
            self.min_scale_factor,
            f"at most max_scale_factor ({self.max_scale_factor})",
        )
        require(
            self.min_resize_value > 0 or self.max_resize_value == 0,
            "max_resize_value",
            self.max_resize_value,
            "0, unless min_resize_value is set too",
        )
