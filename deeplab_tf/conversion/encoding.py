"""Turns an image file and its mask file into the content of a record, without TensorFlow.

Every image and mask is fully decoded, unless the user trusts them: a check of the headers would not
notice truncated JPEGs. Masks become 8-bit grey PNGs of train ids and the ignored label.
"""

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from deeplab_tf.conversion import masks
from deeplab_tf.conversion.annotations.drawing import Drawing, DrawnCoding
from deeplab_tf.conversion.masks import MaskCoding
from deeplab_tf.data import decoding, image_files, other_images
from deeplab_tf.data.examples import EncodedExample, Remark
from deeplab_tf.data.image_kinds import RGB, ImageKind
from deeplab_tf.messages import UserError

CONVERSION = 6  # increase it when the same files may become other records or counts


@dataclass(frozen=True)
class BadFile:
    """A pair that could not be encoded, and why.

    is_unread: whether a file could not be read, which may pass, and not what it holds is the cause.
    """

    name: str
    reason: str
    is_unread: bool = False

    @classmethod
    def after(cls, error: UserError, name: str) -> "BadFile":
        """Returns the outcome for a pair whose encoding ended with an error."""
        return cls(name, str(error), isinstance(error, decoding.UnreadFileError))

    def to_json(self) -> dict:
        """Returns what dataset.json says of it."""
        unread = {"unread": True} if self.is_unread else {}
        return {"name": self.name, "reason": self.reason, **unread}


@dataclass(frozen=True)
class FilePair:
    """An image file and its label, which is a mask file, a drawing, or not published.

    mask_path: the mask file; None if there is none.
    drawing: what an annotation tool drew in the image, in place of a mask file.
    """

    name: str
    image_path: Path
    mask_path: Path | None
    drawing: Drawing | None = None


def encode_pair(
    pair: FilePair,
    coding: MaskCoding,
    *,
    verify: str = "full",
    exif_orientation: str = "apply",
    image_kind: ImageKind = RGB,
) -> EncodedExample:
    """Reads, checks and encodes an image with its mask.

    A file's bytes are kept if TensorFlow decodes them to the same pixels. Images other than 8-bit
    RGB are always encoded again.

    Args:
      verify: "full"; or "header", which does not decode files whose bytes are kept.
      exif_orientation: "apply" turns an image as its EXIF data say, unless only the unturned one
        has the size of the mask; "ignore" turns none.
      image_kind: what the images of the data set are.
    Raises:
      UserError: if a file cannot be read, the image is of another kind, the mask holds what is not
        in the class list, or the sizes differ.
    """
    values, counts = None, None
    if image_kind.is_rgb:
        stored = image_files.open_image(pair.image_path, decode=verify == "full")
    else:
        image_content = decoding.read_file(pair.image_path)
        values, counts = other_images.decode(image_content, pair.image_path, image_kind)
        # Its first channel stands for the image where only the size counts.
        first = Image.fromarray(np.ascontiguousarray(values[..., 0]))
        stored = image_files.StoredImage(first, image_content, "", 1, has_other_channel=False)

    source = hashlib.sha256(stored.content)
    image_source = source.digest()
    mask = masks.EncodedMask(b"", None, ())
    if pair.mask_path:
        mask_content = decoding.read_file(pair.mask_path)
        source.update(mask_content)
        mask = masks.encode_mask(mask_content, pair.mask_path, coding, verify=verify)
    elif pair.drawing:
        source.update(pair.drawing.digest)
        mask = _encode_drawing(pair, pair.drawing, stored, coding, exif_orientation)

    turn = _orientation_remark(stored, pair, mask.size, exif_orientation)
    dropped: Remark | None = "channel_dropped" if stored.has_other_channel else None

    image, content, image_format = stored.image, stored.content, stored.format
    is_turned = turn in ("turned", "turned_unsure")
    if values is not None:
        content, image_format = other_images.encode(values), "png"
    elif is_turned or image.mode not in ("RGB", "L") or not image_format:
        with decoding.naming(pair.image_path):
            image = (stored.turned() if is_turned else image).convert("RGB")
        # The transparency belongs to the mode before the conversion, and Pillow cannot write it.
        image.info.pop("transparency", None)
        content, image_format = decoding.encode_png(image), "png"

    return EncodedExample(
        name=pair.name,
        image=content,
        image_format=image_format,
        height=image.height,
        width=image.width,
        label=mask.png,
        source=source.digest(),
        label_values=mask.counts,
        remarks=tuple(remark for remark in (turn, dropped, mask.chosen_reading) if remark),
        palette=mask.palette,
        channels=image_kind.channels,
        image_values=counts,
        image_source=image_source,
    )


def _encode_drawing(
    pair: FilePair,
    drawing: Drawing,
    stored: image_files.StoredImage,
    coding: MaskCoding,
    exif_orientation: str,
) -> masks.EncodedMask:
    """Draws what an annotation file describes, and encodes it as a mask."""
    assert isinstance(coding, DrawnCoding)
    size = drawing.size
    if size:  # refused before anything is drawn: a wrong size may be a huge one
        _orientation_remark(stored, pair, size, exif_orientation)
    else:
        is_turned = stored.orientation in image_files.SIDEWAYS and exif_orientation == "apply"
        size = stored.image.size[::-1] if is_turned else stored.image.size
    return masks.encode_ids(drawing.draw(size, coding))


def _orientation_remark(
    stored: image_files.StoredImage,
    pair: FilePair,
    mask_size: tuple[int, int] | None,
    exif_orientation: str,
) -> Remark | None:
    """Returns whether the image is turned as its EXIF data say; None if they say nothing.

    Args:
      mask_size: width and height; None if there is no mask.
    Raises:
      UserError: if the image cannot have the mask's size.
    """
    size = stored.image.size
    turned_size = size[::-1] if stored.orientation in image_files.SIDEWAYS else size
    turns = stored.orientation in image_files.TURNS and exif_orientation == "apply"
    if turns and mask_size in (None, turned_size):
        # Half a turn, a mirroring, and any turn of a square keep the size, which then cannot tell
        # whether the mask was drawn on the turned image. Drawings without a size say even less.
        is_untold = pair.drawing is not None and pair.drawing.size is None
        return "turned_unsure" if is_untold or mask_size == size else "turned"
    if mask_size in (None, size):
        return "not_turned" if turns else None

    way_out = "they must have the same size."
    if mask_size == turned_size:
        way_out = "turned as its EXIF data say, it would fit: leave out --exif_orientation=ignore."
    mask = f"{pair.drawing.where} " if pair.drawing else f"its mask {pair.mask_path} "
    raise UserError(
        f"{pair.image_path} is {size[0]}x{size[1]} but {mask}"
        f"is {mask_size[0]}x{mask_size[1]}; {way_out}"
    )


def fingerprint(pairs: Sequence[FilePair], *settings: Any) -> str:
    """Returns a hash of the files' paths, sizes and times, and of the conversion's settings.

    Of drawings it takes the shapes, since one file may describe many images.
    """
    digest = hashlib.sha256(repr((CONVERSION, *settings)).encode())
    folders: dict[Path, bytes] = {}
    for pair in pairs:
        for path in filter(None, (pair.image_path, pair.mask_path)):
            # Masks of another folder may agree in all else, as archives give them equal times.
            if path.parent not in folders:
                folders[path.parent] = os.fsencode(path.parent.resolve())
            digest.update(folders[path.parent])

            state = path.stat()
            digest.update(f"{pair.name}|{path.name}|{state.st_size}|{state.st_mtime_ns}\n".encode())
        if pair.drawing:
            digest.update(pair.drawing.digest)
    return digest.hexdigest()
