"""What a builder counts in its splits, and what it tells about them: a table, warnings, errors.

The counts are kept in dataset.json, so that the report is the same when a split is up to date.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from deeplab_tf.conversion.annotations.drawing import DrawnCoding
from deeplab_tf.conversion.masks import MaskCoding
from deeplab_tf.data import image_files, statistics
from deeplab_tf.data.catalog import DatasetInfo
from deeplab_tf.data.examples import EncodedExample
from deeplab_tf.data.image_kinds import ImageKind, ValueCounts
from deeplab_tf.data.statistics import LabelCounts
from deeplab_tf.messages import UserError, counted, warn

# Well labelled data sets ignore only borders and unnamed things: 4 % of CamVid, about a tenth of
# others. If a class is ignored by mistake, it is mostly the background, which covers far more.
_USUAL_IGNORED_SHARE = 0.3
_USUAL_CLIPPED_SHARE = 0.05  # of the values of images

# Warnings about single images, by `examples.Remark` or "wholly_ignored". Other remarks serve to
# compare masks with each other, and are reported for all of them together: how they were read
# ("values" or "colors"), and which of two classes they hold (`_kind_of_binary_mask`).
_REMARKS = {
    "turned": "turned as the EXIF data say; --exif_orientation=ignore turns none.",
    "turned_unsure": (
        "turned as the EXIF data say, though the mask fits the unturned image as well (a square, "
        "half a turn or a mirroring), or the annotations do not give the size of the image that "
        "they were drawn on; check in inspect_data's page of samples whether the masks fit, and "
        "give --exif_orientation=ignore if not."
    ),
    "not_turned": "not turned though the EXIF data say so, since the mask fits it only unturned.",
    "channel_dropped": image_files.CHANNEL_DROPPED,
    "wholly_ignored": "without a pixel that counts: all have the ignored label.",
}


@dataclass
class SplitFacts:
    """What a builder counts in a split, or in one of its shards.

    labels: pixels of each class.
    uncounted: number of labels that were not decoded.
    remarks: for each remark, the number of images and the name of the first one.
    palette: for each index of palette masks, its colours, and for each colour the first image whose
      mask shows it.
    image_values: counts of the images' values, unless they are 8-bit RGB.
    """

    labels: LabelCounts
    uncounted: int = 0
    remarks: dict[str, tuple[int, str]] = field(default_factory=dict)
    palette: dict[int, dict[tuple[int, ...], str]] = field(default_factory=dict)
    image_values: ValueCounts | None = None

    @classmethod
    def none(cls, info: DatasetInfo) -> "SplitFacts":
        """Returns facts that are all empty."""
        return cls(LabelCounts.none(info.num_classes))

    def add(self, example: EncodedExample, info: DatasetInfo) -> None:
        """Adds an image and its label."""
        remarks: list[str] = [*example.remarks]
        if example.label_values:
            pixels = self.labels.add(example.label_values, info.ignore_label)
            if not pixels.any():
                remarks.append("wholly_ignored")
            elif info.num_classes == 2:
                remarks += _kind_of_binary_mask(pixels, example.label_values[info.ignore_label])
        elif example.label:
            self.uncounted += 1

        self._add_values(example.image_values)
        for remark in remarks:
            self._add_remark(remark, 1, example.name)
        for index, color in example.palette:
            self._add_color(index, color, example.name)

    def merge(self, other: "SplitFacts") -> None:
        """Adds the facts of images that come after the images of `self`."""
        self.labels += other.labels
        self.uncounted += other.uncounted
        self._add_values(other.image_values)
        for remark, (count, first) in other.remarks.items():
            self._add_remark(remark, count, first)
        for index, colors in other.palette.items():
            for color, first in colors.items():
                self._add_color(index, color, first)

    def _add_color(self, index: int, color: tuple[int, ...], name: str) -> None:
        colors = self.palette.setdefault(index, {})
        if len(colors) < 2:  # two are enough to show that masks disagree
            colors.setdefault(color, name)

    def _add_values(self, counts: ValueCounts | None) -> None:
        if counts:
            self.image_values = (self.image_values or ValueCounts()).merged(counts)

    def _add_remark(self, remark: str, images: int, first: str) -> None:
        count, name = self.remarks.get(remark, (0, first))
        self.remarks[remark] = (count + images, name)

    def to_json(self, info: DatasetInfo) -> dict:
        """Returns the part of dataset.json that describes the split's content."""
        return {
            "statistics": self.labels.to_json(info.class_names),
            "uncounted_labels": self.uncounted,
            "remarks": {
                remark: {"images": images, "first": first}
                for remark, (images, first) in self.remarks.items()
            },
            "palette": [
                [index, list(color), first]
                for index, colors in self.palette.items()
                for color, first in colors.items()
            ],
            **({"image_values": self.image_values._asdict()} if self.image_values else {}),
        }

    @classmethod
    def from_json(cls, content: dict) -> "SplitFacts":
        """Returns the facts that `to_json` wrote."""
        facts = cls(
            LabelCounts.from_json(content["statistics"]),
            content["uncounted_labels"],
            {key: (entry["images"], entry["first"]) for key, entry in content["remarks"].items()},
        )
        for index, color, first in content.get("palette", []):
            facts._add_color(index, tuple(color), first)
        if values := content.get("image_values"):
            # By name: later versions may count more.
            facts.image_values = ValueCounts(
                total=values["total"], clipped=values["clipped"], largest=values["largest"]
            )
        return facts

    @classmethod
    def of_splits(cls, info: DatasetInfo, entries: Mapping[str, dict]) -> "SplitFacts":
        """Returns the facts of some splits, from their entries in dataset.json.

        Entries of earlier versions have none.
        """
        facts = cls.none(info)
        for entry in entries.values():
            if "remarks" in entry:
                facts.merge(cls.from_json(entry))
        return facts


def _kind_of_binary_mask(pixels: np.ndarray, num_ignored: int) -> list[str]:
    """Returns a remark on what a mask of two classes holds; none if only the first class."""
    if pixels[1]:
        return ["second_and_ignored" if num_ignored else "second_not_ignored"]
    return ["first_and_ignored"] if num_ignored else []


def require_a_second_class(
    info: DatasetInfo, entries: Mapping[str, dict], coding: MaskCoding
) -> None:
    """Refuses a data set whose labels are all 0 or ignored: nothing can be learnt from it.

    The usual cause is masks of 0 and 255, in which the ignored label is the second class.

    Args:
      entries: all splits' entries in dataset.json.
    Raises:
      UserError: if some pixels are ignored, and all others are class 0.
    """
    labels = LabelCounts.none(info.num_classes)
    for entry in entries.values():
        counts = statistics.counts_of(entry)
        if counts:
            labels += counts
        elif entry.get("labelled", True):
            return  # labels that were not counted may hold other classes
    if not labels.ignored or labels.pixels[1:].any():
        return

    name, ignored = info.class_names[-1], info.ignore_label
    way_out = (
        f"If {ignored} is a class in the masks, say so in a column label_id of the class list (its "
        f"first line name,label_id; another {name},{ignored}), and leave it out of --ignore_label."
    )
    # That helps only if the user has a class list, and the ignored label is not a class already.
    if info.builder != "build_folder_data" or ignored < info.num_classes:
        way_out = f"Are these the masks of {info.name}?"
    if isinstance(coding, DrawnCoding):
        way_out = "Draw shapes of other classes, or check --class_list, --unlisted and --unlabeled."
    raise UserError(
        f"All labels are {info.class_names[0]!r} or ignored ({100 * labels.ignored_share:.1f} % of "
        f"the pixels): nothing can be learnt from them, and nothing was written. {way_out}"
    )


def require_one_palette(info: DatasetInfo, entries: Mapping[str, dict]) -> None:
    """Refuses masks whose palettes give one index different colours.

    Programs that choose a palette for each picture also number its colours. Then the same index
    means different classes in different files.

    Args:
      entries: entries in dataset.json of the splits that were built together.
    Raises:
      UserError: naming the index and two images.
    """
    facts = SplitFacts.of_splits(info, entries)
    for index, colors in sorted(facts.palette.items()):
        if len(colors) > 1:
            (one, first), (other, second) = colors.items()
            raise UserError(
                f"The palettes of the masks disagree: index {index} is {one} in the mask of "
                f"{first!r} and {other} in that of {second!r}, so it may mean two classes; "
                "nothing was written. If the colours count, give each class its colour in the "
                "class list (name,r,g,b) and --mask_encoding=color; if the indices do, give "
                "--mask_encoding=index."
            )


def require_one_second_class(
    info: DatasetInfo, entries: Mapping[str, dict], coding: MaskCoding
) -> None:
    """Refuses data of two classes if some masks seem to hold the second one as 1, others as 255.

    Some programs write masks of 0 and 1, others of 0 and 255. In a mixture of both, the 255 would
    be ignored. If a single mask holds both 1 and 255, then 255 means something else at least there,
    and `print_report` only warns.

    Args:
      entries: all splits' entries in dataset.json.
    Raises:
      UserError: naming a mask of each kind.
    """
    remarks = SplitFacts.of_splits(info, entries).remarks
    doubt = _doubt_about_ignored(info, remarks, coding)
    if doubt and "second_and_ignored" not in remarks:
        raise UserError(f"{doubt} Nothing was written.")


def _doubt_about_ignored(
    info: DatasetInfo, remarks: Mapping[str, tuple[int, str]], coding: MaskCoding
) -> str:
    """Returns why the ignored value may mean the second of two classes; "" if it cannot."""
    # There is no doubt if the user said what to ignore, or in a data set that the package knows.
    is_known = coding.ignored_values or coding.ignore_colors or not coding.class_list
    if is_known or not {"second_not_ignored", "first_and_ignored"} <= remarks.keys():
        return ""

    first, second = info.class_names
    ignored = info.ignore_label
    masks, mask = remarks["first_and_ignored"]
    others, other = remarks["second_not_ignored"]
    first_ids, second_ids = (
        ";".join(map(str, label_class.label_ids or (index,)))
        for index, label_class in enumerate(info.classes)
    )
    return (
        f"In {counted(masks, 'mask')} (the first: {mask!r}) there are {first!r} and {ignored}, "
        f"which is ignored, but no {second!r}; in {others} (the first: {other!r}) there is "
        f"{second!r} but no {ignored}. If {ignored} means {second!r} in some, say so in a column "
        f"label_id of the class list (its lines: name,label_id and {first},{first_ids} and "
        f"{second},{second_ids};{ignored}); if it is to be ignored, give --ignore_label={ignored}."
    )


def print_report(info: DatasetInfo, entries: Mapping[str, dict], coding: MaskCoding) -> None:
    """Prints the pixels of each class in each split, and warnings about what looks wrong.

    Args:
      entries: entries in dataset.json of the splits that were asked for.
    """
    counted = {}
    for split, entry in entries.items():
        counts = statistics.counts_of(entry)
        if counts:
            counted[split] = counts
        elif entry["labelled"]:
            print(f"{split}: pixels of the classes were not counted; --verify=full counts them.")
    if counted:
        print(statistics.table(info.class_names, counted))

    _warn_of_absent_classes(info, counted)
    is_asked_for = coding.ignored_values or coding.ignore_colors
    for split, labels in counted.items():
        if labels.ignored_share > _USUAL_IGNORED_SHARE and not is_asked_for:
            warn(
                f"{100 * labels.ignored_share:.0f} % of the pixels of {split} have the ignored "
                f"label {info.ignore_label}; data sets seldom ignore more than "
                f"{100 * _USUAL_IGNORED_SHARE:.0f} %: is it one of the classes?"
            )

    facts = SplitFacts.of_splits(info, entries)
    if facts.image_values:
        _report_values(info.image_kind, facts.image_values)
    remarks = facts.remarks
    _warn_of_remarks(info, remarks)
    if doubt := _doubt_about_ignored(info, remarks, coding):
        warn(doubt)


def _report_values(kind: ImageKind, counts: ValueCounts) -> None:
    """Says how the images' values fit the stated maximum, and warns if they hardly can."""
    share = counts.clipped / counts.total
    print(
        f"images: {kind.described()}; the largest value is {counts.largest}; values above "
        f"{kind.max_value}, which count as {kind.max_value}: {100 * share:.3g} %."
    )
    if share > _USUAL_CLIPPED_SHARE:
        warn(
            f"{100 * share:.0f} % of the values are above --image_max_value={kind.max_value}, so "
            "they all look alike; give a larger value, unless they are clouds or damage."
        )
    if counts.largest * 4 < kind.max_value:
        warn(
            f"no value is above {counts.largest}, less than a quarter of "
            f"--image_max_value={kind.max_value}, so all images are dark; give the value that "
            "means full brightness."
        )


def _warn_of_absent_classes(info: DatasetInfo, counted: Mapping[str, LabelCounts]) -> None:
    """Warns of classes that occur in no split, or only in some of the splits."""
    total = sum((labels.pixels for labels in counted.values()), start=np.zeros(1, np.int64))
    if (total > 0).sum() == 1:
        name = info.class_names[int(total.argmax())]
        warn(f"{name!r} is the only class that occurs: a model would predict it everywhere.")

    absent = {split: _absent(info, labels) for split, labels in counted.items()}
    absent_everywhere = set.intersection(*map(set, absent.values())) if absent else set()
    if absent_everywhere:
        names = [name for name in info.class_names if name in absent_everywhere]
        guess = ""
        if len(names) == 1 and any(labels.ignored for labels in counted.values()):
            guess = f"; do the masks use {info.ignore_label}, which is ignored, for it?"
        warn(
            f"{len(names)} of {info.num_classes} classes occur nowhere ({', '.join(absent)}): "
            f"{_named(names)}{guess or '.'}"
        )

    for split, names in absent.items():
        if names := [name for name in names if name not in absent_everywhere]:
            warn(
                f"{len(names)} of {info.num_classes} classes occur in other splits but not in "
                f"{split}: {_named(names)}."
            )


def _warn_of_remarks(info: DatasetInfo, remarks: Mapping[str, tuple[int, str]]) -> None:
    if {"values", "colors"} <= remarks.keys():
        (by_values, first_value), (by_colors, first_color) = remarks["values"], remarks["colors"]
        warn(
            f"the masks were read in two ways: {by_values} (the first: {first_value!r}) by values, "
            f"{by_colors} (the first: {first_color!r}) by colours. If all were drawn in "
            "colours, and some stored as grey, give --mask_encoding=color; if all hold values, "
            "give --mask_encoding=index."
        )

    for remark in _REMARKS:
        if remark in remarks:
            ends = _REMARKS[remark]
            if remark == "channel_dropped" and info.builder == "build_folder_data":
                ends += " To keep them, give the number of channels, such as --image_channels=4."
            images, first = remarks[remark]
            warn(f"{counted(images, 'image')} (the first: {first!r}) {ends}")
    if {"turned_unsure", "not_turned"} <= remarks.keys() and "turned" not in remarks:
        warn(
            "wherever the sizes tell, the masks were drawn on unturned images; give "
            "--exif_orientation=ignore to leave the others unturned too."
        )


def _absent(info: DatasetInfo, labels: LabelCounts) -> list[str]:
    """Returns the classes without a pixel, except a class that is ignored."""
    return [
        name
        for index, name in enumerate(info.class_names)
        if not labels.pixels[index] and index != info.ignore_label
    ]


def _named(names: Sequence[str]) -> str:
    shown = ", ".join(map(repr, names[:5]))
    return shown + (f" (and {len(names) - 5} more)" if len(names) > 5 else "")
