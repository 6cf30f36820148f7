"""The settings of each program that are not settings of a run: what it reads and writes, and how.

They stand here and not in the programs, since the jobs in `deeplab_tf.jobs` take them too.
"""

import re
from dataclasses import dataclass
from pathlib import Path

from deeplab_tf.config import checkpoint_choice
from deeplab_tf.config.checkpoint_choice import checkpoint_setting, require_one_choice
from deeplab_tf.config.data import DataConfig
from deeplab_tf.config.model import OUTPUT_STRIDES, ModelConfig
from deeplab_tf.config.setting import (
    MOST_COUNT,
    MOST_PIXELS_OF_A_SIDE,
    MOST_SECONDS,
    Config,
    require,
    require_exactly_one,
    require_given,
    require_utf8,
    setting,
    setting_of,
)
from deeplab_tf.messages import UserError

COLORMAPS = ("pascal", "cityscapes", "ade20k")  # as official DeepLab names them
_LEAST_WINDOW = 64 * 64  # pixels; a network sees nothing in less
_MOST_VERSION = 2**63 - 1  # TensorFlow Serving reads int64; versions may be dates and times


@dataclass(frozen=True, kw_only=True)
class EvalJobConfig(Config):
    """Which checkpoints are scored, and where the scores go."""

    checkpoint_dir: str = setting(
        "", "The run's folder, or one checkpoint in it (.../model.ckpt-1000)."
    )
    checkpoint: str = checkpoint_setting()
    eval_logdir: str = setting(
        "", "Folder for results.json, per_image.csv, the confusion matrix and TensorBoard."
    )
    eval_interval_secs: int = setting(
        300,
        "Seconds to wait before looking for a new checkpoint again.",
        least=0,
        most=MOST_SECONDS,
    )
    max_number_of_evaluations: int = setting(
        1,
        "Number of checkpoints to score. 1 scores the chosen one; with more, eval waits for new "
        "checkpoints of a run in training; 0 or less means until the end of the run.",
        least=-MOST_COUNT,
    )
    num_gpus: int = setting(
        -1, "Number of GPUs that share the images; -1 uses all, 0 uses the CPU.", least=-1
    )
    worst_images: int = setting(
        20,
        "Number of images with the lowest mIoU to list in worst_images.csv and results.json; 0 "
        "lists none.",
        least=0,
    )
    boundary_f_score: bool = setting(
        False,
        "Whether to score outlines as well: how closely predicted ones follow the labels' own.",
    )
    boundary_tolerance: float = setting(
        0.0075,
        "Distance at which an outline still counts as right, as a share of the image's diagonal; "
        "it is rounded up to whole pixels.",
        above=0,
        most=1,
        only_with={"boundary_f_score": (True,)},
    )

    def __post_init__(self):
        super().__post_init__()

        require_given("checkpoint_dir", self.checkpoint_dir, "the folder of a run")
        require_given("eval_logdir", self.eval_logdir, "a path")
        require_one_choice(self.checkpoint, self.checkpoint_dir, "checkpoint_dir")
        _require_a_run_to_follow(self, "max_number_of_evaluations")


def _require_a_run_to_follow(job: "EvalJobConfig | VisConfig", name: str) -> None:
    """Raises UserError if new checkpoints are wanted, but a certain one was chosen.

    Args:
      name: the setting that says how many checkpoints are wanted.
    """
    number = getattr(job, name)
    folder, step = checkpoint_choice.split(job.checkpoint_dir)
    is_chosen = job.checkpoint not in ("", checkpoint_choice.NEWEST) or step is not None
    if number != 1 and is_chosen:
        raise UserError(
            f"--{name}={number} takes each new checkpoint of a run; give --checkpoint_dir={folder} "
            f"without --checkpoint, or leave --{name} out to take one."
        )


@dataclass(frozen=True, kw_only=True)
class VisConfig(Config):
    """Which checkpoint predicts which split, and where the pictures go."""

    checkpoint_dir: str = setting(
        "", "The run's folder, or one checkpoint in it (.../model.ckpt-1000)."
    )
    checkpoint: str = checkpoint_setting()
    vis_logdir: str = setting("", "Folder for the pictures.")
    vis_split: str = setting("val", "Split to paint.")
    max_number_of_images: int = setting(
        0, "Number of images to paint; 0 paints the whole split.", least=0
    )
    also_save_raw_predictions: bool = setting(
        False, "Whether to save predictions also as index PNGs, in raw_segmentation_results/."
    )
    raw_label_ids: bool = setting(
        False,
        "Whether the index PNGs hold the label ids of the data set's own masks, as benchmark "
        "servers want them (16-bit PNGs if an id is above 255), and not train ids.",
        only_with={"also_save_raw_predictions": ()},
    )
    error_map: str = setting(
        "",
        "Writes where predictions are wrong: red paints wrong pixels red, class in the colour of "
        "their true class; correct pixels are pale, ignored ones grey.",
        choices=("", "red", "class"),
    )
    colormap_type: str = setting(
        "",
        "Data set whose colours the predictions have. They always have the colours of the run's "
        "own data set; a name that stands for other colours is refused.",
        choices=("", *COLORMAPS),
    )
    eval_interval_secs: int = setting(
        300,
        "Seconds to wait before looking for a new checkpoint again.",
        least=0,
        most=MOST_SECONDS,
    )
    max_number_of_iterations: int = setting(
        1,
        "Number of checkpoints to paint. 1 paints the chosen one; with more, vis waits for new "
        "checkpoints of a run in training, whose pictures replace the earlier ones; 0 or less "
        "means until the end of the run.",
        least=-MOST_COUNT,
    )

    def __post_init__(self):
        super().__post_init__()
        require_given("checkpoint_dir", self.checkpoint_dir, "the folder of a run")
        require_given("vis_logdir", self.vis_logdir, "a path")
        require_one_choice(self.checkpoint, self.checkpoint_dir, "checkpoint_dir")
        _require_a_run_to_follow(self, "max_number_of_iterations")


@dataclass(frozen=True, kw_only=True)
class PredictConfig(Config):
    """Which images are predicted, with which model, and where the results go."""

    input: tuple[str, ...] = setting(
        (),
        "Images to predict: files, folders, globs, http(s) addresses, and - for one image from "
        "standard input.",
        names="paths",
    )
    output_dir: str = setting(
        "", "Folder to write index/, color/ and overlay/ to, and what else is asked for."
    )
    checkpoint_dir: str = setting(
        "", "The run's folder, or one checkpoint in it (.../model.ckpt-1000)."
    )
    checkpoint: str = checkpoint_setting()
    weights: str = setting(
        "",
        "Name of published weights, such as voc_r101_os8, which are fetched and converted once; "
        "`import_weights --list` has all names. Give it in place of checkpoint_dir.",
    )
    export_dir: str = setting(
        "", "Folder that export_model wrote; give it in place of checkpoint_dir."
    )
    server: str = setting(
        "",
        "host:port of the gRPC port of TensorFlow Serving; give it in place of checkpoint_dir.",
    )
    model_name: str = setting(
        "deeplab", "Name of the model on the server.", only_with={"server": ()}
    )
    class_list: str = setting(
        "",
        "Class list with the names and colours of the server's classes: the exported model's "
        "assets/labels.csv, or another list.",
        only_with={"server": ()},
    )
    max_image_pixels: int = setting(
        0,
        "Images with more pixels, also after resizing for prediction, are predicted in windows of "
        "at most this many pixels, as --inference_mode=slide does; 0 predicts all as the run says.",
        only_with={"checkpoint_dir": (), "weights": ()},
    )
    shard: str = setting(
        "",
        "K/N, such as 2/16: predicts only the K-th of N shares of the images, for the tasks of a "
        "job array; all shares together are all images. Empty predicts all.",
    )
    num_gpus: int = setting(
        -1,
        "Number of GPUs that share the images; -1 uses all, 0 uses the CPU.",
        least=-1,
        only_with={"checkpoint_dir": (), "weights": ()},
    )
    skip_bad: bool = setting(
        False, "Whether to succeed even if some images cannot be predicted; they are listed."
    )
    server_timeout_secs: int = setting(
        30,
        "Seconds to wait for the connection to the server, and for the answer to each image.",
        least=1,
        most=MOST_SECONDS,
        only_with={"server": ()},
    )

    def __post_init__(self):
        super().__post_init__()

        require_given("input", self.input, "files, folders or globs")
        require_given("output_dir", self.output_dir, "a path")
        require_exactly_one(
            checkpoint_dir=self.checkpoint_dir,
            weights=self.weights,
            export_dir=self.export_dir,
            server=self.server,
        )
        require(
            bool(self.checkpoint_dir) or not self.checkpoint,
            "checkpoint",
            self.checkpoint,
            "a choice among the checkpoints of --checkpoint_dir",
        )
        require_one_choice(self.checkpoint, self.checkpoint_dir, "checkpoint_dir")
        require(
            not self.shard or self.share is not None,
            "shard",
            self.shard,
            "K/N with K from 1 to N, such as 2/16",
        )
        require(
            self.max_image_pixels == 0 or self.max_image_pixels >= _LEAST_WINDOW,
            "max_image_pixels",
            self.max_image_pixels,
            f"0, or {_LEAST_WINDOW} or more",
        )
        if self.server:
            require_given("class_list", self.class_list, "the exported model's assets/labels.csv")

    @property
    def share(self) -> tuple[int, int] | None:
        """Returns the numbers K and N of `shard`; None if it does not hold such numbers."""
        numbers = re.fullmatch(r"(\d{1,9})/(\d{1,9})", self.shard)
        if not numbers:
            return None
        number, count = int(numbers[1]), int(numbers[2])
        return (number, count) if 1 <= number <= count else None


@dataclass(frozen=True, kw_only=True)
class ExportConfig(Config):
    """Which checkpoint is exported, and where to."""

    train_logdir: str = setting(
        "", "The run's folder, or one checkpoint in it (.../model.ckpt-1000)."
    )
    checkpoint_path: str = setting(
        "", "One checkpoint (.../model.ckpt-1000); give it in place of train_logdir."
    )
    checkpoint: str = checkpoint_setting()
    export_dir: str = setting(
        "", "Folder of the model; its versions go into the folders 1, 2, ... in it."
    )
    export_path: str = setting(
        "",
        "File for a frozen graph of TensorFlow 1, as official DeepLab writes it, with the tensors "
        "ImageTensor:0 and SemanticPredictions:0; give it in place of export_dir.",
    )
    num_classes: int = setting(
        0, "Number of classes that the run must have; 0 takes any number.", least=0
    )
    export_version: int = setting(
        0,
        "Version to write; 0 takes the next free one.",
        least=0,
        most=_MOST_VERSION,
        only_with={"export_dir": ()},
    )
    model_name: str = setting(
        "",
        "Name of the model on a server; if empty, the name of the folder export_dir.",
        only_with={"export_dir": ()},
    )
    model_base_path: str = setting(
        "",
        "Path at which the server sees export_dir, for model.config; if empty, "
        "/models/<model_name>.",
        only_with={"export_dir": ()},
    )

    def __post_init__(self):
        super().__post_init__()
        require_utf8(model_name=self.model_name, model_base_path=self.model_base_path)
        require_exactly_one(train_logdir=self.train_logdir, checkpoint_path=self.checkpoint_path)
        require_exactly_one(export_dir=self.export_dir, export_path=self.export_path)
        flag = "train_logdir" if self.train_logdir else "checkpoint_path"
        require_one_choice(self.checkpoint, getattr(self, flag), flag)


SUFFIXES = {
    "onnx": ".onnx",
    "tflite_float32": ".tflite",
    "tflite_float16": ".tflite",
    "tflite_int8": ".tflite",
}


@dataclass(frozen=True, kw_only=True)
class ConvertConfig(Config):
    """Which SavedModel is converted, to which format, and where the file goes."""

    export_dir: str = setting(
        "", "Folder that export_model wrote, whose highest version is taken, or one version in it."
    )
    format: str = setting("onnx", "Format to convert to.", choices=tuple(SUFFIXES))
    output: str = setting("", "File to write: .onnx or .tflite.")
    image_size: tuple[int, ...] = setting(
        (),
        "Height and width of the images that the file takes, one at a time; if empty, it takes any "
        "number of images of any size.",
        least=1,
        most=MOST_PIXELS_OF_A_SIDE,
    )
    calibration_images: tuple[str, ...] = setting(
        (),
        "For tflite_int8: training images to measure the range of activations with, given as "
        "files, folders and globs.",
        names="paths",
        only_with={"format": ("tflite_int8",)},
    )
    num_calibration_images: int = setting(
        100,
        "Number of calibration images to use, spread evenly over those given.",
        least=1,
        only_with={"calibration_images": ()},
    )

    def __post_init__(self):
        super().__post_init__()

        require_given("export_dir", self.export_dir, "the folder of an exported model")
        suffix = SUFFIXES[self.format]
        allowed = f"a file {suffix} for --format={self.format}"
        require_given("output", self.output, allowed)
        require(Path(self.output).suffix == suffix, "output", self.output, allowed)
        require(len(self.image_size) in (0, 2), "image_size", self.image_size, "height,width")
        if self.format == "tflite_int8":
            require_given("calibration_images", self.calibration_images, "images to measure with")


@dataclass(frozen=True, kw_only=True)
class ImportConfig(Config):
    """What is read, and the settings of the network that few files of weights hold."""

    source: str = setting(
        "",
        "Weights to read: a .pth file, a checkpoint of official DeepLab (model.ckpt-N or its "
        ".tar.gz) or its frozen graph (.pb), the address of one of these, "
        "keras.applications:ResNet50, ResNet101 or ResNet152, or keras_cv:PRESET.",
    )
    output: str = setting("", "Folder to write; it must be new or empty.")
    list: bool = setting(
        False, "Whether to list the published weights that have a name, and to do nothing else."
    )
    dataset: str = setting(
        "",
        "Data set that the classes belong to. If empty: the classes that the file names, or else "
        "the known data set with as many classes, or else classes named by their numbers.",
    )
    class_list: str = setting(
        "",
        "For your own classes, in place of dataset: the class list that the records were, or will "
        "be, built with.",
    )
    ignore_label: int = setting(
        255, "With class_list: the label of ignored pixels in the records.", least=0, most=255
    )
    output_stride: int = setting(
        None,
        "Input pixels, along each side, per cell of the encoder's output. If left out: as the "
        "file tells, or else 16, and 32 for MobileNetV3, as published.",
        choices=OUTPUT_STRIDES,
    )
    atrous_rates: tuple[int, ...] = setting_of(
        ModelConfig,
        "atrous_rates",
        help="Rates of ASPP's atrous branches, as many as the file has. If left out: as the file "
        "tells, or else 6,12,18 at output stride 16, scaled for other strides; but official "
        "DeepLab's must be given.",
    )
    multi_grid: tuple[int, ...] = setting_of(ModelConfig, "multi_grid")
    align_corners: bool = setting_of(
        ModelConfig,
        "align_corners",
        help="Whether the network resizes with aligned corners, as mmsegmentation's 769x769 files "
        "do. If left out: as the file tells, or else not. Networks of official DeepLab always do.",
    )
    image_pooling_crop_size: tuple[int, ...] = setting_of(
        ModelConfig,
        "image_pooling_crop_size",
        default=None,
        help="For weights of official DeepLab: window of the image pooling, height,width in "
        "pixels; empty pools the whole image. Needed for a squeeze-and-excite gate, and otherwise "
        "empty if left out.",
    )
    image_pooling_stride: tuple[int, ...] = setting_of(
        ModelConfig,
        "image_pooling_stride",
        default=None,
        help="For weights of official DeepLab: stride of that window, down,across in cells of the "
        "encoder's output. Needed for a squeeze-and-excite gate with a window, and otherwise 1,1 "
        "if left out.",
    )
    image_se_uses_qsigmoid: bool = setting_of(
        ModelConfig,
        "image_se_uses_qsigmoid",
        default=None,
        help="For weights of official DeepLab with a squeeze-and-excite gate, which need it: "
        "whether the gate is the piecewise linear ReLU6(x + 3) / 6, and not a sigmoid.",
    )
    use_bounded_activation: bool = setting_of(
        ModelConfig,
        "use_bounded_activation",
        help="For weights of official DeepLab: whether they were trained with activations limited "
        "to 6.",
    )
    dense_prediction_cell_json: str = setting_of(
        ModelConfig,
        "dense_prediction_cell_json",
        help="For weights of official DeepLab with a dense prediction cell, which need it: its "
        "JSON, or the path of a file with it.",
    )

    def __post_init__(self):
        super().__post_init__()
        if self.list:
            return

        require_given("source", self.source, "a path, an address or a model's name")
        require_given("output", self.output, "a path")
        require(
            not (self.dataset and self.class_list),
            "class_list",
            self.class_list,
            f"nothing with --dataset={self.dataset}, which names the classes already",
        )
        require(
            bool(self.class_list) or self.ignore_label == 255,
            "ignore_label",
            self.ignore_label,
            "255 without --class_list",
        )


@dataclass(frozen=True, kw_only=True)
class InspectConfig(Config):
    """Which records are inspected, and where the pages of samples go."""

    dataset_dir: str = setting("", "Folder with the TFRecord shards and dataset.json.")
    dataset: str = setting(
        "", "Name of the data set; if empty, the one in <dataset_dir>/dataset.json."
    )
    class_list: str = setting_of(DataConfig, "class_list")
    num_classes: int = setting_of(DataConfig, "num_classes")
    ignore_label: int = setting_of(DataConfig, "ignore_label")
    splits: tuple[str, ...] = setting((), "Splits to inspect; empty means all.")
    max_bad_records: int = setting_of(
        DataConfig,
        "max_bad_records",
        help="Number of damaged records that each split may have; they are listed and not counted.",
    )
    output_dir: str = setting(
        "", "Folder for pages and statistics.json; if empty, <dataset_dir>/inspection."
    )
    num_samples: int = setting(
        12,
        "Number of images on the page of a split, spread over the split.",
        least=1,
        most=1000,
    )

    def __post_init__(self):
        super().__post_init__()
        require_given("dataset_dir", self.dataset_dir, "the folder of the records")
        require(self.num_classes != 1, "num_classes", self.num_classes, "0, or 2 or more")


@dataclass(frozen=True, kw_only=True)
class ReportConfig(Config):
    """Which run the page is about, where its scores are, and where the page goes."""

    train_logdir: str = setting("", "The run's folder.")
    eval_logdir: str = setting(
        "",
        "Folder that eval wrote; if empty, the one in the run's folder or a folder in it.",
    )
    dataset_dir: str = setting(
        "",
        "Folder of the records, if they were moved; if empty, the one that the run and its scores "
        "name.",
    )
    output: str = setting("", "File to write, .html; if empty, <train_logdir>/report.html.")
    num_images: int = setting(
        4, "Number of best images to show, and of worst ones.", least=0, most=100
    )

    def __post_init__(self):
        super().__post_init__()
        require_given("train_logdir", self.train_logdir, "the folder of a run")
        folder, step = checkpoint_choice.split(self.train_logdir)
        require(
            step is None,
            "train_logdir",
            self.train_logdir,
            f"the folder of a run, {folder}; the page is about the checkpoint that eval scored",
        )
        is_page = not self.output or Path(self.output).suffix in (".html", ".htm")
        require(is_page, "output", self.output, "a file that ends in .html")


@dataclass(frozen=True, kw_only=True)
class DataServiceConfig(Config):
    """How trainers reach this host."""

    port: int = setting(
        5050,
        "Port that trainers connect to; the next port sends the examples. 0 takes free ports.",
        least=0,
        most=65534,
    )
    host: str = setting(
        "", "Name by which trainers reach this host; if empty, the name that the host has itself."
    )


@dataclass(frozen=True, kw_only=True)
class BenchmarkConfig(Config):
    """How often to measure."""

    benchmark_steps: int = setting(10, "Number of steps to time.", least=1)
    warmup_steps: int = setting(
        2, "Number of steps before the timed ones; the first one traces the graph.", least=1
    )
