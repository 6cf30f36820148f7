"""Arrays of another program -> the variables of a model, all of them or an error."""

import dataclasses
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import tensorflow as tf

from deeplab_tf.config import ModelConfig
from deeplab_tf.messages import UserError


@dataclass(frozen=True)
class Source:
    """What a weights file holds, in this package's terms.

    kind: what the file is, for people. config: the network that it belongs to.
    num_classes: 0 if the file holds only a backbone.
    arrays: our variable's name -> its value, in our layout. origins: our variable's name -> the
    file's name of it. unused: the file's names of what no variable takes. converted: our names of
    the values that are not the file's own, but transposed, reordered or adjusted.
    """

    kind: str
    config: ModelConfig
    num_classes: int
    arrays: dict[str, np.ndarray]
    origins: dict[str, str]
    unused: list[str] = dataclasses.field(default_factory=list)
    converted: set[str] = dataclasses.field(default_factory=set)


class Collector:
    """Gathers a Source's arrays from a file's, and notices what is missing or left over."""

    def __init__(self, file: Mapping[str, np.ndarray], path: str):
        self._file, self._path = file, path
        self.arrays: dict[str, np.ndarray] = {}
        self.origins: dict[str, str] = {}
        self.converted: set[str] = set()

    def take(
        self, name: str, origin: str, convert: Callable[[np.ndarray], np.ndarray] = np.asarray
    ) -> None:
        """Takes `origin` of the file for our variable `name`.

        Raises:
          UserError: if the file lacks it, or it cannot be converted.
        """
        if origin not in self._file:
            raise UserError(f"{self._path} lacks {origin!r}, which {name!r} needs.")
        array = np.asarray(self._file[origin])
        try:
            self.arrays[name] = convert(array)
        except ValueError:  # numpy's, of arrays with too few or too many axes
            raise UserError(
                f"{self._path} holds {origin!r} with the shape {array.shape}, which {name!r} can "
                "not have."
            ) from None
        self.origins[name] = origin
        if convert is not np.asarray:
            self.converted.add(name)

    def shape(self, origin: str, rank: int) -> tuple[int, ...]:
        """Returns the shape of `origin`, which must have `rank` axes.

        Raises:
          UserError: if the file lacks it, or it has other axes.
        """
        if origin not in self._file:
            raise UserError(f"{self._path} lacks {origin!r}; it cannot be imported.")
        shape = np.shape(self._file[origin])
        if len(shape) != rank:
            raise UserError(
                f"{self._path} holds {origin!r} with the shape {shape}; {rank} axes are needed."
            )
        return shape

    def source(
        self, kind: str, config: ModelConfig, num_classes: int, *, own: str, ignored: str
    ) -> Source:
        """Returns what was taken.

        Args:
          own: pattern that the names of the network's weights begin with; all must be taken, or
            the network is another that happens to hold this one's names.
          ignored: pattern of whole names that need not be taken, nor be told of.
        Raises:
          UserError: if a weight of the network is left over.
        """
        taken = set(self.origins.values())
        left = sorted(n for n in self._file if n not in taken and not re.fullmatch(ignored, n))
        extra = [name for name in left if re.match(own, name)]
        if extra:
            raise UserError(
                f"{self._path} is of another network than can be imported: {len(extra)} of its "
                f"weights have no place ({_some(extra)})."
            )
        return Source(kind, config, num_classes, self.arrays, self.origins, left, self.converted)


def variables_of(model: tf.keras.Model) -> dict[str, tf.Variable]:
    """Returns the model's weights by their names; the loss's running mean is none of them."""
    named = {variable.name.split(":")[0]: variable for variable in model.variables}
    return {name: variable for name, variable in named.items() if "/" in name}


def assign(model: tf.keras.Model, arrays: Mapping[str, np.ndarray], *, kept: tuple[str, ...] = ()):
    """Gives every variable of the model its array.

    Args:
      kept: beginnings of the names of variables that keep the values they have.
    Raises:
      UserError: naming variables without an array, or with one of another shape; then no variable
        was changed.
    """
    wanted = {n: v for n, v in variables_of(model).items() if not n.startswith(kept or ("\n",))}
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


def _some(items: list[str]) -> str:
    return "; ".join(items[:3]) + (f" and {len(items) - 3} more" if len(items) > 3 else "")
