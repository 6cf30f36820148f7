"""Settings of the pictures and files that `vis` and `predict` write for each image."""

from dataclasses import dataclass
from typing import Any

from deeplab_tf.config.setting import Config, require, setting

AREAS, COCO = "areas.csv", "coco.json"
PROBABILITIES = ("npz", "png")
POLYGONS = ("coco", "labelme")


@dataclass(frozen=True, kw_only=True)
class PictureConfig(Config):
    """Which further pictures and files are written, and how overlays look."""

    overlay_alpha: float = setting(
        0.5,
        "Opacity of the class colours over the image: 0 shows the image, 1 only the colours.",
        least=0,
        most=1,
    )
    legend: bool = setting(
        False,
        "Whether to write the overlay once more, with the names of the classes that occur below.",
    )
    side_by_side: bool = setting(
        False,
        "Whether to write one page for each image: image, label, prediction, overlay and errors, "
        "as far as there are any, with titles and a legend.",
    )
    save_areas: bool = setting(
        False, "Whether to write areas.csv: pixels and share of each class in each prediction."
    )
    save_probabilities: tuple[str, ...] = setting(
        (),
        "npz: the probabilities of all classes, float16 [height, width, classes]; png: only "
        "the predicted class's, 255 for 1, as an 8-bit picture.",
    )
    save_polygons: tuple[str, ...] = setting(
        (),
        "coco: one coco.json with the regions of all images, run-length encoded; labelme: a JSON "
        "with polygons for each image, to be corrected in labelme.",
    )

    def __post_init__(self):
        super().__post_init__()
        for name, allowed in (
            ("save_probabilities", PROBABILITIES),
            ("save_polygons", POLYGONS),
        ):
            value = getattr(self, name)
            known = set(value) <= {*allowed} and len(set(value)) == len(value)
            require(known, name, value, f"{allowed[0]}, {allowed[1]}, or both with a comma")

    def kinds(self, *, with_errors: bool = False) -> dict[str, str]:
        """Returns the kinds of files that are written for each image, with the endings of names."""
        wanted = {
            ("legend", ".png"): self.legend,
            ("errors", ".png"): with_errors,
            ("side_by_side", ".png"): self.side_by_side,
            ("confidence", ".png"): "png" in self.save_probabilities,
            ("probabilities", ".npz"): "npz" in self.save_probabilities,
            ("labelme", ".json"): "labelme" in self.save_polygons,
        }
        return dict(kind for kind, is_wanted in wanted.items() if is_wanted)

    def summaries(self) -> list[str]:
        """Returns the names of the files about all images that are written."""
        wanted = {AREAS: self.save_areas, COCO: "coco" in self.save_polygons}
        return [name for name, is_wanted in wanted.items() if is_wanted]

    def beside_overlays(self) -> list[str]:
        """Returns the flags that ask for more than the usual pictures."""
        return [
            f"--{name}"
            for name, value in vars(self).items()
            if name != "overlay_alpha" and value != getattr(USUAL, name)
        ]

    def decides(self) -> dict[str, Any]:
        """Returns what decides how a file looks, and not only whether it is written."""
        return {"overlay_alpha": self.overlay_alpha}


USUAL = PictureConfig()  # no further pictures or files
