"""Gives a model the weights of another program: every variable gets its array, or none does."""

import dataclasses
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import tensorflow as tf

from deeplab_tf import files
from deeplab_tf.config import ModelConfig
from deeplab_tf.messages import UserError
from deeplab_tf.weights.mmseg_config import Told

# Limits of what is imported. The network is built before its weights are compared with it, so a
# small file must not ask for a large one.
_MOST_CLASSES = 255  # as in a class list
_MOST_CHANNELS = 2048


@dataclass(frozen=True)
class Source:
    """What a weights file holds, in this package's terms.

    Attributes:
      kind: what the file is, for messages.
      config: the network that the weights belong to.
      num_classes: number of classes; 0 if the file holds only a backbone.
      arrays: our variables' values in our layout, by the variables' names.
      origins: the names in the file, by our variables' names.
      unused: names in the file that no variable takes.
      converted: names of our variables whose values are transposed, reordered or adjusted, and not
        as in the file.
      told: what the file says about its network and its classes.
    """

    kind: str
    config: ModelConfig
    num_classes: int
    arrays: dict[str, np.ndarray]
    origins: dict[str, str]
    unused: list[str] = dataclasses.field(default_factory=list)
    converted: set[str] = dataclasses.field(default_factory=set)
    told: Told = Told()


class Collector:
    """Collects the arrays of a Source from a file, and notices what is missing or left over."""

    def __init__(self, file: Mapping[str, np.ndarray], path: str):
        self._file, self._path = file, path
        self.arrays: dict[str, np.ndarray] = {}
        self.origins: dict[str, str] = {}
        self.converted: set[str] = set()

    def take(
        self, name: str, origin: str, convert: Callable[[np.ndarray], np.ndarray] = np.asarray
    ) -> None:
        """Takes the array `origin` in the file for our variable `name`.

        Args:
          convert: brings the array into our layout.
        Raises:
          UserError: if the file lacks the array, or it cannot be converted.
        """
        if origin not in self._file:
            raise UserError(f"{self._path} lacks {origin!r}, which {name!r} needs.")

        array = np.asarray(self._file[origin])
        try:
            self.arrays[name] = convert(array)
        except ValueError:  # numpy raises it for arrays with too few or too many axes
            raise UserError(
                f"{self._path} holds {origin!r} with the shape {array.shape}, which {name!r} "
                "cannot have."
            ) from None

        self.origins[name] = origin
        if convert is not np.asarray:
            self.converted.add(name)

    def shape(self, origin: str, rank: int) -> tuple[int, ...]:
        """Returns the shape of `origin`, which must have `rank` axes.

        Raises:
          UserError: if the file lacks it, or it has another number of axes.
        """
        if origin not in self._file:
            raise UserError(f"{self._path} lacks {origin!r}; it cannot be imported.")
        shape = np.shape(self._file[origin])
        if len(shape) != rank:
            raise UserError(
                f"{self._path} holds {origin!r} with the shape {shape}; {rank} axes are needed."
            )
        return shape

    def channels(self, origin: str, axis: int) -> int:
        """Returns the number of channels of a kernel, which must have 4 axes.

        Args:
          axis: where the channels are.
        Raises:
          UserError: if the file lacks it, or no network to import has as many channels.
        """
        number = self.shape(origin, 4)[axis]
        if not 1 <= number <= _MOST_CHANNELS:
            raise UserError(
                f"{self._path} holds {origin!r} with {number} channels; 1 to {_MOST_CHANNELS} can "
                "be imported."
            )
        return number

    def classes(self, origin: str, axis: int) -> int:
        """Returns the number of classes of a classifier's kernel, as `channels` does."""
        number = self.shape(origin, 4)[axis]
        if not 1 < number <= _MOST_CLASSES:
            raise UserError(
                f"{self._path} has a classifier with the number of outputs {number}; 2 to "
                f"{_MOST_CLASSES} classes can be imported, and not one by a sigmoid."
            )
        return number

    def source(
        self, kind: str, config: ModelConfig, num_classes: int, *, known: str, ignored: str
    ) -> Source:
        """Returns what was taken, as a Source.

        Args:
          known: pattern for the beginning of the names of the network's weights. All of these must
            be taken: if one is left over, the file belongs to another network with similar names.
          ignored: pattern of whole names that are left out of `Source.unused`.
        Raises:
          UserError: if a weight of the network is left over.
        """
        taken = set(self.origins.values())
        left = (name for name in self._file if name not in taken)
        unused = sorted(files.shown(name) for name in left if not re.fullmatch(ignored, name))
        extra = [name for name in unused if re.match(known, name)]
        if extra:
            raise UserError(
                f"{self._path} belongs to a network that cannot be imported: {len(extra)} of its "
                f"weights have no place in ours ({_some(extra)})."
            )
        return Source(kind, config, num_classes, self.arrays, self.origins, unused, self.converted)


def sound(source: Source, path: str) -> Source:
    """Returns the source with its arrays as float32, if they can be weights at all.

    Args:
      path: what messages call the file.
    Raises:
      UserError: if an array is empty, is not of floating-point numbers, holds one that is infinite
        or none, or is a variance below zero.
    """
    arrays = {}
    for name, array in source.arrays.items():
        holds = f"{path} cannot be imported: its {source.origins[name]!r} holds"
        if not array.size or array.dtype.kind != "f":
            raise UserError(f"{holds} {array.size} values of type {array.dtype}, not weights.")

        with np.errstate(over="ignore"):  # becomes infinite
            arrays[name] = array.astype(np.float32, copy=False)
        finite = np.isfinite(arrays[name])
        if not finite.all():
            raise UserError(
                f"{holds} {finite.size - finite.sum()} values that are not finite, as after a "
                "training that has failed; take another file."
            )
        if name.endswith("/moving_variance") and arrays[name].min() < 0:
            raise UserError(f"{holds} variances below zero; take another file.")
    return dataclasses.replace(source, arrays=arrays)


def variables_of(model: tf.keras.Model) -> dict[str, tf.Variable]:
    """Returns the model's weights by name, without the running mean of the loss."""
    named = {variable.name.split(":")[0]: variable for variable in model.variables}
    return {name: variable for name, variable in named.items() if "/" in name}


def assign(model: tf.keras.Model, arrays: Mapping[str, np.ndarray], *, kept: tuple[str, ...] = ()):
    """Gives every variable of the model its array.

    Args:
      arrays: values by the names of the variables.
      kept: prefixes of the names of variables that keep their values.
    Raises:
      UserError: naming the variables for which the array is missing or has another shape. Then no
        variable was changed.
    """
    wanted = {n: v for n, v in variables_of(model).items() if not n.startswith(kept)}

    missing = sorted(set(wanted) - set(arrays))
    if missing:
        raise UserError(
            f"The weights lack {len(missing)} variables of the model: {_some(missing)}."
        )

    shapes = [
        f"{name} is {arrays[name].shape} and not {tuple(variable.shape)}"
        for name, variable in wanted.items()
        if arrays[name].shape != tuple(variable.shape)
    ]
    if shapes:
        raise UserError(f"The weights do not fit the model: {_some(shapes)}.")

    for name, variable in wanted.items():
        variable.assign(arrays[name])


def with_fitted_stem(model: tf.keras.Model, arrays: Mapping[str, np.ndarray]) -> tuple[dict, str]:
    """Fits the kernel that looks at RGB images to a model of images with other channels.

    With more channels, the first three keep their kernels, and each further one gets their mean: an
    image whose further channels are at their means then has the same features as without them.
    With fewer, each gets an equal share of the sum: an image whose normalised channels are equal
    then has the same features as in RGB. Differs: timm (`adapt_input_conv`) and
    segmentation_models.pytorch (`patch_first_conv`) sum for one channel too; for others they repeat
    the three kernels, times 3 / channels.

    Args:
      arrays: values by the names of the variables.
    Returns:
      The arrays, and the name of the kernel that was fitted, "" if none was.
    """
    fitted, changed = dict(arrays), ""
    for name, variable in variables_of(model).items():
        shape, kernel = tuple(variable.shape), arrays.get(name)
        if kernel is None or not name.endswith("/kernel") or len(shape) != 4:
            continue
        channels = shape[2]
        if kernel.shape == (*shape[:2], 3, shape[3]) and channels != 3:
            whole = kernel.sum(axis=2, keepdims=True)
            if channels < 3:
                fitted[name] = np.repeat(whole / channels, channels, axis=2)
            else:
                others = np.repeat(whole / 3, channels - 3, axis=2)
                fitted[name] = np.concatenate([kernel, others], axis=2)
            changed = name
    return fitted, changed


def _some(items: list[str]) -> str:
    """Returns up to three of the items, and the number of the others, for messages."""
    shown = [files.shown(item, most=100) for item in items[:3]]
    return "; ".join(shown) + (f" and {len(items) - 3} more" if len(items) > 3 else "")
