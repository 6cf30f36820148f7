"""Settings of the data: which records are read, and how training examples are augmented."""

from dataclasses import dataclass

from deeplab_tf.config.setting import Config, require, setting


@dataclass(frozen=True, kw_only=True)
class DataConfig(Config):
    """Which records are read, and how training examples are augmented."""

    dataset: str = setting(
        "",
        "Data set's name; empty takes it from <dataset_dir>/dataset.json. A known name's classes "
        "must be those of the records.",
        may_change=True,
    )
    dataset_dir: str = setting(
        "", "Folder with the TFRecord shards and dataset.json.", may_change=True
    )
    train_split: str = setting("train", "Split to train on.")
    train_crop_size: tuple[int, ...] = setting(
        (513, 513), "Height and width of training crops, pixels.", least=1
    )
    min_resize_value: int = setting(
        0, "Length the shorter side is resized to; 0 keeps the image's own size.", least=0
    )
    max_resize_value: int = setting(
        0, "Limit of the longer side when resizing; 0 sets none.", least=0
    )
    min_scale_factor: float = setting(0.5, "Smallest random scale in training.", least=0.01)
    max_scale_factor: float = setting(2.0, "Largest random scale in training.", least=0.01)
    scale_factor_step_size: float = setting(
        0.25, "Distance between the random scales; 0 draws from the whole range.", least=0
    )
    one_category_max_ratio: float = setting(
        1.0,
        "Crops in which one class has this share of the pixels, or is the only one, are drawn "
        "again, up to 9 times; 1 keeps all crops.",
        least=0.01,
    )
    photometric_distortion: bool = setting(
        False, "Whether brightness, contrast, saturation and hue vary in training."
    )

    def __post_init__(self):
        super().__post_init__()
        size = self.train_crop_size
        require(len(size) == 2, "train_crop_size", size, "two numbers, height,width")
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
            "0 unless min_resize_value is set too",
        )
