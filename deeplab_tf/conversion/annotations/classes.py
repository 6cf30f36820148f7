"""Decides which class each label of the annotations is.

Labels are compared with the names of the class list. Nothing is guessed from similar names.
"""

import shlex
from collections import Counter
from collections.abc import Iterable, Sequence

from deeplab_tf import files
from deeplab_tf.conversion.annotations import labelme, supervisely
from deeplab_tf.conversion.annotations.drawing import NOT_DRAWN, AnnotationFile, DrawnCoding
from deeplab_tf.data import class_lists
from deeplab_tf.data.class_lists import ClassList, LabelClass
from deeplab_tf.messages import UserError, counted, warn

IGNORE_LABEL = 255
# labelme's name has one underscore on each side; in our lists of PASCAL's classes it has two.
_BACKGROUNDS = ("background", "_background_", "__background__")
_MOST_CLASSES = 255


def derived_classes(annotations: Sequence[AnnotationFile], *, unlabeled: str) -> ClassList:
    """Returns the classes that the files list, after a background if there is none.

    Args:
      unlabeled: "background" or "ignore".
    Raises:
      UserError: if the files list none, as labelme's, or different ones.
    """
    lists = [(file, file.classes) for file in annotations if file.classes is not None]
    if not lists:
        raise UserError(_give_a_class_list(annotations))
    (first, classes), *others = lists
    for other, other_classes in others:
        if [one.name for one in other_classes] != [one.name for one in classes]:
            raise UserError(
                f"{files.shown(first.class_list_path)} and {files.shown(other.class_list_path)} "
                "list different classes, so their order is not clear; give a --class_list with one "
                "name a line."
            )

    names = [one.name for one in classes]
    for name in names:
        if problem := class_lists.name_problem(name):
            raise UserError(
                f"{files.shown(first.class_list_path)} lists a class whose name, "
                f"{files.shown(name, most=40)!r}, {problem}; rename it in your annotation tool and "
                "export again."
            )
    if unlabeled == "background" and not _background_of(names):
        classes = [LabelClass("background", (0, 0, 0)), *classes]
    if not 1 < len(classes) <= _MOST_CLASSES:
        raise UserError(
            f"{files.shown(first.class_list_path)} lists {counted(len(names), 'class')}; there "
            f"must be 2 to {_MOST_CLASSES}: give a --class_list."
        )

    # Colours only serve to show predictions, so each class needs one of its own.
    if len({one.color for one in classes}) < len(classes):
        classes = [
            LabelClass(one.name, class_lists.default_color(index))
            for index, one in enumerate(classes)
        ]
    shown = ", ".join(one.name for one in classes[:10]) + (", ..." if len(classes) > 10 else "")
    print(f"{first.class_list_path}: {len(classes)} classes, in the order of the file: {shown}.")
    return ClassList(tuple(classes), has_colors=False)


def _give_a_class_list(annotations: Sequence[AnnotationFile]) -> str:
    """Returns the error for files without a list of classes, with the command that makes one."""
    names = sorted(set(_count_labels(annotations)) - {labelme.IGNORED, *_BACKGROUNDS})
    words = " ".join(shlex.quote(files.shown(name)) for name in ("_background_", *names[:20]))
    more = "" if len(names) <= 20 else f" and the other {len(names) - 20}"
    lacking = "files of labelme do not list their classes: give labelme's labels.txt"
    if any(file.tool == supervisely.TOOL for file in annotations):
        lacking = f"the project's {supervisely.META} is not there: put it where the export has it"
    return (
        f"--class_list is missing, and {lacking}, or write a list, whose order stays the same for "
        f"all your data: printf '%s\\n' {words}{more} > labels.txt"
    )


def drawn_coding(
    class_list: ClassList,
    annotations: Sequence[AnnotationFile],
    *,
    path: str,
    unlabeled: str,
    unlisted: str,
    crowds: str,
) -> DrawnCoding:
    """Returns what the labels of annotations mean.

    Args:
      path: the file of the class list, for errors; "" if it was derived.
      unlabeled: what pixels without a shape are, "background" or "ignore".
      unlisted: what happens to shapes whose label the class list lacks: "refuse", "ignore" (they
        become the ignored label) or "skip" (they are not drawn).
      crowds: what COCO's crowds are, "class" or "ignore".
    Raises:
      UserError: if a label is not in the class list, or there is no class for the background.
    """
    names = [one.name for one in class_list.classes]
    where = path or files.shown(annotations[0].class_list_path)
    background = _background_of(names)
    if unlabeled == "background" and not background:
        raise UserError(
            f"Pixels without annotation become the background, and {where} has no class of that "
            "name; add a line background to it (first, as usual), or give --unlabeled=ignore."
        )

    index_of = {name: index for index, name in enumerate(names)}
    if background:
        index_of = dict.fromkeys(_BACKGROUNDS, index_of[background]) | index_of
    values = {labelme.IGNORED: IGNORE_LABEL} | index_of

    counts = _count_labels(annotations)
    unknown = Counter({name: count for name, count in counts.items() if name not in values})
    _report_unlisted(unknown, where, names, unlisted)
    values |= dict.fromkeys(unknown, IGNORE_LABEL if unlisted == "ignore" else NOT_DRAWN)
    _require_a_drawn_class(values, counts, where, names)

    return DrawnCoding(
        num_classes=len(names),
        ignore_label=IGNORE_LABEL,
        ignored_values=(IGNORE_LABEL,),  # the user has said what is ignored
        class_names=tuple(names),
        class_list=where,
        values=tuple(sorted(values.items())),
        unlabeled=index_of[background] if unlabeled == "background" else IGNORE_LABEL,
        ignores_crowds=crowds == "ignore",
    )


def _background_of(names: Iterable[str]) -> str:
    return next((name for name in names if name.lower() in _BACKGROUNDS), "")


def _count_labels(annotations: Iterable[AnnotationFile]) -> Counter[str]:
    counts: Counter[str] = Counter()
    for file in annotations:
        for drawing in file.drawings:
            counts.update(drawing.labels())
    return counts


def _report_unlisted(unknown: Counter[str], where: str, names: Sequence[str], then: str) -> None:
    if not unknown:
        return
    found = ", ".join(
        f"{files.shown(name, most=40)!r} ({count})" for name, count in unknown.most_common(10)
    )
    found += f" and {len(unknown) - 10} others" if len(unknown) > 10 else ""
    if then == "refuse":
        listed = ", ".join(names[:20]) + (", ..." if len(names) > 20 else "")
        raise UserError(
            f"The annotations have labels that are not in {where} ({listed}), each with its number "
            f"of shapes: {found}; add them there, or give --unlisted=ignore, whose pixels do not "
            "count, or --unlisted=skip, which leaves these shapes out."
        )
    done = "ignored the pixels of" if then == "ignore" else "left out"
    warn(f"{done} labels that are not in {where}, each with its number of shapes: {found}.")


def _require_a_drawn_class(
    values: dict[str, int], counts: Counter[str], where: str, names: Sequence[str]
) -> None:
    """Refuses annotations without a shape of any class: the labels would be one class at most."""
    background = _background_of(names)
    classes = {name for name in counts if 0 <= values[name] < len(names)}
    if not any(names[values[name]] != background for name in classes):
        raise UserError(
            f"No shape in the annotations has the label of a class in {where}, other than the "
            "background: there is nothing to learn; check that the annotations are complete."
        )
