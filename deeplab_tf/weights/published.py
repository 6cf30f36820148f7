"""Published weights by name: where they are, what their owners say of them, how they are imported.

A name is the name of the recipe in `configs/` that describes the network, or else the name in
Google's zoo. What is not published, such as most hashes, is not here. Does not import TensorFlow.
"""

import difflib
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from deeplab_tf import archives
from deeplab_tf.config.programs import ImportConfig
from deeplab_tf.messages import UserError

_SSSEG = "https://github.com/SegmentationBLWX/modelstore/releases/download/ssseg_deeplabv3/"
_GOOGLE = "http://download.tensorflow.org/models/"
# The owners license their repositories. Neither says anything of the weights in particular, or of
# what the data sets' terms mean for them.
_MIT = "MIT, as github.com/SegmentationBLWX/sssegmentation; none is stated for the weights"
_APACHE = "Apache 2.0, as github.com/tensorflow/models; none is stated for the weights"


@dataclass(frozen=True)
class Published:
    """Weights that another program's owner published.

    data: the data set. miou: as published, in percent, with its conditions. size: as published; ""
      if it is not. sha256: of the file; "" if none is published.
    settings: of ImportConfig, which the file does not hold.
    """

    name: str
    data: str
    miou: str
    size: str
    licence: str
    url: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    sha256: str = ""

    @property
    def folder(self) -> Path:
        """Where the converted weights are kept: a run's folder."""
        return archives.home() / "published" / self.name

    def job(self, source: str) -> ImportConfig:
        """Returns the settings that import the file, given by path or address."""
        return ImportConfig(source=source, output=str(self.folder), **self.settings)

    def command(self, source: str) -> str:
        """Returns the command line that imports the file, given by path or address."""
        values = {"source": source, "output": str(self.folder), **self.settings}
        parts = []
        for name, value in values.items():
            text = ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
            parts.append(f"--{name}" if value is True else f"--{name}={shlex.quote(text)}")
        return " ".join(["python -m deeplab_tf.import_weights", *parts])

    def described(self) -> str:
        """Returns all that is known of it, one fact a line."""
        return "\n".join(
            [
                f"{self.name}: {self.data}, mIoU {self.miou}",
                f"  address: {self.url}",
                f"  size: {self.size or 'not published'}",
                f"  hash: {f'SHA-256 {self.sha256}' if self.sha256 else 'none is published'}",
                f"  licence: {self.licence}",
            ]
        )


def find(name: str) -> Published:
    """Returns the weights of a name; raises UserError if there are none."""
    if name not in PUBLISHED:
        near = difflib.get_close_matches(name, PUBLISHED, n=1)
        meant = f"; did you mean {near[0]}?" if near else "."
        raise UserError(
            f"No published weights are called {name!r}{meant} `python -m deeplab_tf.import_weights "
            "--list` lists the names."
        )
    return PUBLISHED[name]


def _of_ssseg(data: str, title: str, rows: Mapping[str, float]) -> list[Published]:
    """Returns the weights of a data set in SSSegmentation's table of DeepLabV3.

    Args:
      data: the data set's name in our recipes, and if it is another one, in the files after a "=".
      rows: depth and output stride, such as "101os8", with the mIoU.
    """
    ours, _, theirs = data.partition("=")
    return [
        Published(
            name=f"{ours}_r{network.replace('os', '_os')}",
            data=title,
            miou=f"{miou:.2f} on val",
            size="",
            licence=_MIT,
            url=f"{_SSSEG}deeplabv3_resnet{network}_{theirs or ours}.pth",
            settings={"output_stride": int(network.partition("os")[2])},
        )
        for network, miou in rows.items()
    ]


def _scores(*mious: float | None) -> dict[str, float]:
    """Returns the mIoU by depth and output stride, in the order of the table's rows."""
    networks = ("50os8", "50os16", "101os8", "101os16")
    return {network: miou for network, miou in zip(networks, mious, strict=False) if miou}


def _of_google(name: str, file: str, data: str, miou: str, size: str, **settings) -> Published:
    """Returns a row of Google's zoo."""
    return Published(name, data, miou, size, _APACHE, f"{_GOOGLE}{file}.tar.gz", settings)


_VOC, _CITY, _ADE = "PASCAL VOC 2012", "Cityscapes", "ADE20K, 150 classes"
_ADE_151 = "ADE20K, 151 classes"
_MNV3 = "deeplab_mnv3_{}_cityscapes_trainfine_2019_11_15"
_RATES = {"atrous_rates": (6, 12, 18)}
_GATE = {
    "image_se_uses_qsigmoid": True,
    "image_pooling_crop_size": (769, 769),
    "image_pooling_stride": (4, 5),
}
_CELL = {"dense_prediction_cell_json": "dense_prediction_cell_branch5_top1_cityscapes.json"}

PUBLISHED: dict[str, Published] = {
    each.name: each
    for each in (
        # SSSegmentation's model zoo, page DeepLabV3.
        *_of_ssseg("voc", _VOC, _scores(77.72, 76.86, 79.52, 78.55)),
        *_of_ssseg(
            "ade20k", _ADE, _scores(43.19, 41.41, 45.16, 43.45)
        ),
        *_of_ssseg(
            "cityscapes", _CITY, _scores(79.62, 78.19, 80.28, 78.03)
        ),
        *_of_ssseg("context=pascalcontext", "PASCAL Context", _scores(46.31, None, 48.43)),
        *_of_ssseg(
            "context59=pascalcontext59",
            "PASCAL Context, 59 classes",
            _scores(51.69, None, 53.81),
        ),
        # g3doc/model_zoo.md of research/deeplab: those that have a recipe, then the others.
        _of_google(
            "voc_mobilenetv2_os16", "deeplabv3_mnv2_pascal_train_aug_2018_01_29",
            _VOC, "75.32 on val", "23 MB",
        ),
        _of_google(
            "voc_xception65_os16", "deeplabv3_pascal_train_aug_2018_01_04",
            _VOC, "82.20 on val", "439 MB", **_RATES,
        ),
        _of_google(
            "cityscapes_mobilenetv2_os16", "deeplabv3_mnv2_cityscapes_train_2018_02_05",
            _CITY, "70.71 on val", "23 MB",
        ),
        _of_google(
            "cityscapes_mobilenetv3large_os32", _MNV3.format("large"),
            _CITY, "72.41 on val", "17 MB", **_GATE,
        ),
        _of_google(
            "cityscapes_mobilenetv3small_os32", _MNV3.format("small"),
            _CITY, "68.99 on val", "5 MB", **_GATE,
        ),
        _of_google(
            "cityscapes_xception65_os16", "deeplabv3_cityscapes_train_2018_02_06",
            _CITY, "78.79 on val", "439 MB", **_RATES,
        ),
        _of_google(
            "cityscapes_xception71dpc_os16", "deeplab_cityscapes_xception71_trainfine_2018_09_08",
            _CITY, "80.31 on val", "445 MB", **_CELL,
        ),
        _of_google(
            "ade20k_mobilenetv2_os16", "deeplabv3_mnv2_ade20k_train_2018_12_03",
            _ADE_151, "32.04 on val", "24.8 MB",
        ),
        _of_google(
            "ade20k_xception65_os16", "deeplabv3_xception_ade20k_train_2018_05_29",
            _ADE_151, "45.65 on val, output stride 8, several scales", "439 MB", **_RATES,
        ),
        _of_google(
            "mobilenetv2_dm05_coco_voc_trainaug", "deeplabv3_mnv2_dm05_pascal_trainaug_2018_10_01",
            _VOC, "70.19 on val", "7.6 MB",
        ),
        _of_google(
            "mobilenetv2_dm05_coco_voc_trainval", "deeplabv3_mnv2_dm05_pascal_trainval_2018_10_01",
            _VOC, "71.83 on test, output stride 8", "7.6 MB",
        ),
        _of_google(
            "mobilenetv2_coco_voc_trainval", "deeplabv3_mnv2_pascal_trainval_2018_01_29",
            _VOC, "80.25 on test, several scales", "23 MB",
        ),
        _of_google(
            "xception65_coco_voc_trainval", "deeplabv3_pascal_trainval_2018_01_04",
            _VOC, "87.80 on test, several scales", "439 MB", **_RATES,
        ),
        _of_google(
            "xception71_dpc_cityscapes_trainval",
            "deeplab_cityscapes_xception71_trainvalfine_2018_09_08",
            _CITY, "82.66 on test, several scales", "446 MB", **_CELL,
        ),
        _of_google(
            "edgetpu_deeplab", "edgetpu-deeplab_2020_03_09", _CITY, "74.1 on val", "",
        ),
        _of_google(
            "edgetpu_deeplab_slim", "edgetpu-deeplab-slim_2020_03_09", _CITY, "73.2 on val", "",
        ),
    )
}  # fmt: skip
