"""From the value of --annotations to the images of each split with their drawings."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from deeplab_tf import files
from deeplab_tf.conversion import folder_pairs, split_members
from deeplab_tf.conversion.annotations import classes, matching, reading
from deeplab_tf.conversion.annotations.drawing import AnnotationFile, Drawing, DrawnCoding
from deeplab_tf.conversion.encoding import FilePair
from deeplab_tf.conversion.split_members import SplitSettings
from deeplab_tf.data.class_lists import ClassList
from deeplab_tf.messages import UserError, counted, warn

_SPLIT = re.compile(r"\w[\w.-]*")
# What CVAT's projects call the subset of tasks without one.
_NO_SUBSET = re.compile(r"(default(_\d+)?)?")


@dataclass(frozen=True)
class Source:
    """Annotation files that belong together.

    split: the split that they make; "" if the images or other settings decide that.
    """

    split: str
    files: tuple[AnnotationFile, ...]


def read_sources(parts: Sequence[str]) -> list[Source]:
    """Reads what --annotations names: a path, or NAME=PATH for each split.

    Raises:
      UserError: if a path cannot be read, or several have no name.
    """
    named = [_named(part) for part in parts]
    if len(named) > 1 and not all(split for split, _ in named):
        raise UserError(
            f"--annotations={','.join(parts)} names several files; give NAME=FILE for each split, "
            "such as train=train.json,val=val.json."
        )
    return [Source(split, tuple(reading.read(path))) for split, path in named]


def _named(part: str) -> tuple[str, Path]:
    """Returns split and path of NAME=PATH; the split is "" if there is no name."""
    split, equals, path = part.partition("=")
    if not equals or Path(part).exists() or not _SPLIT.fullmatch(split):
        return "", Path(part)
    return split, Path(path)


def classes_of(
    sources: Sequence[Source], class_list: ClassList | None, **settings: str
) -> tuple[ClassList, DrawnCoding]:
    """Returns the classes and what the labels mean.

    Args:
      class_list: the user's; None derives the classes from the files.
      settings: passed on to `classes.drawn_coding`.
    """
    annotations = [file for source in sources for file in source.files]
    if class_list is None:
        class_list = classes.derived_classes(annotations, unlabeled=settings["unlabeled"])
    return class_list, classes.drawn_coding(class_list, annotations, **settings)


def pairs_of_splits(
    sources: Sequence[Source], settings: SplitSettings
) -> dict[str, list[FilePair]]:
    """Returns the images of each split with their drawings, and warns of all that is left out.

    Raises:
      UserError: if images are missing, or it is not clear which splits there are.
    """
    images = folder_pairs.list_images(settings.images_dir, endings=settings.image_endings)
    finder = matching.ImageFinder(images, settings.images_dir)
    for source in sources:
        matching.warn_of_left_out(source.files)

    has_settings = bool(settings.split_lists or settings.val_fraction)
    (first, *_) = sources
    if not first.split and len(first.files) > 1:
        if settings.val_fraction:
            _refuse_files_of_splits(first.files, settings.val_fraction)
        elif not has_settings:
            sources = _by_file_name(first.files)
    if sources[0].split:
        if has_settings:
            raise UserError(
                "--annotations names the splits, so --split_lists and --val_fraction have no "
                "effect; leave them out, or give --annotations one path without a name."
            )
        splits = {
            source.split: matching.drawings_of_images(
                source.files, finder, source.split, skip_bad=settings.skip_bad
            )
            for source in _joined(sources)
        }
    else:
        splits = _splits_of_images(first, finder, images, settings)

    _warn_of_unused(images, splits, settings.images_dir)
    return {
        split: [
            FilePair(images[path], path, None, drawing_of[path])
            for path in (images if sources[0].split else drawing_of)
            if path in drawing_of
        ]
        for split, drawing_of in splits.items()
    }


def _by_file_name(annotations: Iterable[AnnotationFile]) -> list[Source]:
    """Returns a source for each file, with the name of its split.

    Files of one name in several folders, such as train/_annotations.coco.json, have the names of
    their folders; others their own, without COCO's "instances_" and "stuff_".
    """
    sources = [Source(split, (file,)) for split, file in _names_of_files(annotations)]
    names = [source.split for source in sources]
    if len(set(names)) < len(names) or not all(map(_SPLIT.fullmatch, names)):
        listed = ", ".join(files.shown(source.files[0].path) for source in sources[:4])
        raise UserError(
            f"The annotation files {listed} do not say which splits they are; give --annotations "
            "a name for each, such as train=FILE,val=FILE."
        )
    said = ", ".join(f"{source.split} from {source.files[0].path}" for source in sources)
    print(f"Splits by the names of the annotation files: {said}.")
    return sources


def _names_of_files(
    annotations: Iterable[AnnotationFile],
) -> Iterator[tuple[str, AnnotationFile]]:
    """Yields each file with the name that may be its split's: its own, or its folder's."""
    by_name: dict[str, list[AnnotationFile]] = {}
    for file in annotations:
        by_name.setdefault(file.path.name, []).append(file)

    for group in by_name.values():
        for file in group:
            own = matching.own_name(file.path)
            yield file.path.resolve().parent.name if len(group) > 1 else own, file


def _refuse_files_of_splits(annotations: Iterable[AnnotationFile], val_fraction: float) -> None:
    """Refuses to draw a share of images whose annotation files say which splits they are in.

    The share would mix them, and images that others test on would be trained on.
    """
    named = {split_members.usual_split(name): file for name, file in _names_of_files(annotations)}
    named.pop("", None)
    if len(named) > 1:
        paths = " and ".join(files.shown(file.path) for file in named.values())
        raise UserError(
            f"--val_fraction={val_fraction} would mix the splits that the annotation files name, "
            f"{paths}; leave it out, or give one of them as --annotations."
        )


def _joined(sources: Iterable[Source]) -> list[Source]:
    """Joins sources of one split."""
    by_split: dict[str, tuple[AnnotationFile, ...]] = {}
    for source in sources:
        by_split[source.split] = by_split.get(source.split, ()) + source.files
    return [Source(split, annotations) for split, annotations in by_split.items()]


def _splits_of_images(
    source: Source,
    finder: matching.ImageFinder,
    images: Mapping[Path, str],
    settings: SplitSettings,
) -> dict[str, dict[Path, Drawing]]:
    """Returns the splits that lists, a random share, CVAT's subsets or sub-folders make."""
    drawing_of = matching.drawings_of_images(source.files, finder, skip_bad=settings.skip_bad)
    annotated = {path: name for path, name in images.items() if path in drawing_of}

    if not (settings.split_lists or settings.val_fraction):
        by_subset = _by_subset(source, {path: drawing_of[path] for path in annotated})
        if by_subset:
            print(f"Splits by the subsets in {source.files[0].path}: {', '.join(by_subset)}.")
            return by_subset

    members = split_members.members_of_splits(
        settings,
        images if settings.split_lists else annotated,
        lambda image, text: False,
    )
    for split, paths in members.items():
        for path in paths:
            if path not in drawing_of:
                raise UserError(
                    f"The list of split {split!r} names {path}, which has no annotation; annotate "
                    "it (an empty annotation makes it background), or take it out of the list."
                )
    return {split: {path: drawing_of[path] for path in paths} for split, paths in members.items()}


def _by_subset(
    source: Source, drawing_of: Mapping[Path, Drawing]
) -> dict[str, dict[Path, Drawing]]:
    """Returns the splits that CVAT's subsets make; none if there are no subsets.

    Raises:
      UserError: if only some images have a subset, or its name cannot be a split's.
    """
    by_subset: dict[str, dict[Path, Drawing]] = {}
    without: list[Path] = []
    for path, drawing in drawing_of.items():
        if _NO_SUBSET.fullmatch(drawing.subset.lower()):
            without.append(path)
        else:
            by_subset.setdefault(drawing.subset.lower(), {})[path] = drawing
    for subset in by_subset:
        if not _SPLIT.fullmatch(subset):
            raise UserError(
                f"{files.shown(source.files[0].path)} assigns images to the subset {subset!r}, "
                "which cannot name a split; use letters, digits, '_', '.' and '-' in CVAT, or give "
                "--split_lists or --val_fraction."
            )
    if by_subset and without:
        raise UserError(
            f"{files.shown(source.files[0].path)} assigns images to the subsets "
            f"{', '.join(by_subset)}, but {counted(len(without), 'image')} to none (the first: "
            f"{without[0]}); choose their tasks' subset in CVAT and export again, or give "
            "--split_lists or --val_fraction."
        )
    return by_subset


def _warn_of_unused(
    images: Mapping[Path, str], splits: Mapping[str, Mapping[Path, Drawing]], images_dir: Path
) -> None:
    """Warns of images that have no annotation, unless lists of splits left them out."""
    used = set().union(*splits.values())
    unused = [path for path in images if path not in used]
    if unused:
        warn(
            f"{images_dir}: left out {counted(len(unused), 'image')} of {len(images)} without "
            f"annotations, or in no split (the first: {unused[0]})."
        )
