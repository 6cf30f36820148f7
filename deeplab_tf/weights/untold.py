"""What a file of weights does not tell about its network, so that somebody must say it."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from deeplab_tf.config.setting import Config


@dataclass(frozen=True, kw_only=True)
class Untold:
    """Settings that neither names nor shapes of weights tell; their names are `ModelConfig`'s.

    None says that nobody has answered: the usual value is taken where there is one, and otherwise
    the reader of the file asks for an answer.
    """

    output_stride: int | None = None
    atrous_rates: tuple[int, ...] | None = None
    multi_grid: tuple[int, ...] = ()
    use_bounded_activation: bool = False
    dense_prediction_cell_json: str = ""
    image_se_uses_qsigmoid: bool | None = None
    image_pooling_crop_size: tuple[int, ...] | None = None
    image_pooling_stride: tuple[int, ...] | None = None

    @classmethod
    def of(cls, settings: Config) -> "Untold":
        """Returns the answers that the settings of a network, or of an import, give."""
        names = [field.name for field in dataclasses.fields(cls)]
        return cls(**{name: getattr(settings, name) for name in names})

    def completed(self, told: Mapping[str, Any]) -> "Untold":
        """Returns these answers, completed by what a file of weights tells after all."""
        missing = {
            name: told[name]
            for name, value in vars(self).items()
            if value in (None, ()) and name in told
        }
        return dataclasses.replace(self, **missing)

    def settings(self) -> dict[str, Any]:
        """Returns the answers there are, as arguments of `ModelConfig`."""
        return {name: value for name, value in vars(self).items() if value is not None}
