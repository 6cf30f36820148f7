"""What the images of a data set are: their channels, and the value that means full brightness.

Images of 8-bit RGB are files as they come. All others are arrays of whole numbers, uint8 or uint16
[H, W, C], whose values mean 0 to `max_value`; the network gets them as 0 to 255.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from deeplab_tf.messages import UserError, counted

MOST_CHANNELS = 1024  # a spectrometer has a few hundred
MOST_VALUE = 65535  # PNG, which records hold, has no more than 16 bits


@dataclass(frozen=True)
class ImageKind:
    """Channels of the images, and the value that becomes 255.

    channels: 1 to `MOST_CHANNELS`. If there are 3 or more, the first three are shown as red, green
      and blue.
    max_value: 1 to `MOST_VALUE`; larger values count as this one.
    """

    channels: int = 3
    max_value: int = 255

    @property
    def is_rgb(self) -> bool:
        """Whether the images are 8-bit RGB, as the files of cameras are."""
        return self == RGB

    @property
    def dtype(self) -> type[np.integer]:
        """The type of arrays with these values: np.uint8, or np.uint16 if that is too small."""
        return np.uint8 if self.max_value <= 255 else np.uint16

    def described(self) -> str:
        """Returns "8-bit RGB" or, for example, "4 channels of 0..10000"."""
        if self.is_rgb:
            return "8-bit RGB"
        return f"{counted(self.channels, 'channel')} of 0..{self.max_value}"

    def flags(self) -> str:
        """Returns the flags of build_folder_data that say this."""
        return f"--image_channels={self.channels} --image_max_value={self.max_value}"

    def picture(self, image: np.ndarray) -> np.ndarray:
        """Returns an image, [..., H, W, channels], as people see it, uint8 [..., H, W, 3], RGB.

        These are the first three channels, or three times the first one if there are fewer.
        """
        if self.is_rgb:
            return image
        shown = image[..., :3] if self.channels >= 3 else np.repeat(image[..., :1], 3, axis=-1)
        scaled = np.minimum(shown, self.max_value).astype(np.float32) * (255 / self.max_value)
        return np.round(scaled).astype(np.uint8)

    def unscaled(self, image: np.ndarray) -> np.ndarray:
        """Scales values of 0..255, as networks take them, back to the images' own, of `dtype`."""
        return np.round(image * (self.max_value / 255)).astype(self.dtype)

    def to_json(self) -> dict[str, int]:
        """Returns what dataset.json says about it: nothing about 8-bit RGB."""
        if self.is_rgb:
            return {}
        return {"image_channels": self.channels, "image_max_value": self.max_value}

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> "ImageKind":
        """Returns the kind that `to_json` described."""
        return cls(
            content.get("image_channels", RGB.channels),
            content.get("image_max_value", RGB.max_value),
        )

    def require_rgb(self, what: str, way_out: str) -> None:
        """Raises UserError unless the images are 8-bit RGB.

        Args:
          what: what needs them, such as "--format=onnx".
          way_out: what the user can do.
        """
        if not self.is_rgb:
            raise UserError(
                f"{what} needs 8-bit RGB images, and the model's have {self.described()}; "
                f"{way_out}."
            )


RGB = ImageKind()


class ValueCounts(NamedTuple):
    """Counts of images' values, taken before larger ones become `ImageKind.max_value`.

    total: how many there are. clipped: how many were above. largest: the largest of all.
    """

    total: int = 0
    clipped: int = 0
    largest: int = 0

    def merged(self, other: "ValueCounts") -> "ValueCounts":
        """Returns the counts of both."""
        return ValueCounts(
            self.total + other.total,
            self.clipped + other.clipped,
            max(self.largest, other.largest),
        )
