"""Turns mask files into train ids: the only place where this is done, without TensorFlow.

A MaskCoding says what the values and colours of masks mean. Files that have lost their values, or
whose colours contradict their values, are refused: training on them would only lower the mIoU, or
not be noticed at all. What passes becomes an 8-bit grey PNG of train ids and the ignored label.
"""

import dataclasses
import functools
import zlib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from PIL import Image

from deeplab_tf.conversion import mask_files
from deeplab_tf.data import decoding, statistics
from deeplab_tf.data.examples import Color
from deeplab_tf.messages import UserError, counted


@dataclass(frozen=True)
class MaskCoding:
    """What the values or colours of mask files mean.

    num_classes: values below it are train ids, unless there is an `index_map`.
    ignore_label: the value in records of pixels that do not count; masks may hold it too, unless
      there is an `index_map`.
    colors: the colour of each class, by train id; empty if no mask is drawn in class colours.
    ignore_colors: colours that become the ignored label.
    encoding: "index" reads the stored values, also of palette masks and of RGB masks with equal
      channels; "color" reads the colours of all masks; "auto" reads the values of grey and palette
      masks and the colours of RGB masks.
    index_map: the train id or the ignored label of each stored value, by position. Values that map
      to -1 or lie beyond its end are refused. If it is empty, values are train ids already.
    ignored_values: values that the user wants to ignore; whether their colours fit is not checked.
    class_names, class_list: the user's classes and the file that lists them, for errors; empty for
      the data sets that the package knows. They do not change a record. So `repr`, which decides
      whether records are up to date, leaves them out.
    """

    num_classes: int
    ignore_label: int
    colors: tuple[Color, ...] = ()
    ignore_colors: tuple[Color, ...] = ()
    encoding: str = "index"
    index_map: tuple[int, ...] = ()
    ignored_values: tuple[int, ...] = ()
    class_names: tuple[str, ...] = dataclasses.field(default=(), repr=False)
    class_list: str = dataclasses.field(default="", repr=False)

    @functools.cached_property
    def train_ids(self) -> np.ndarray:
        """The train id of each stored value, int16 [256 or more]; -1 where it is refused."""
        table = np.full(max(256, len(self.index_map)), -1, np.int16)
        if self.index_map:
            table[: len(self.index_map)] = self.index_map
        else:
            table[: self.num_classes] = np.arange(self.num_classes)
            table[self.ignore_label] = self.ignore_label
        return table

    @functools.cached_property
    def ids_of_colors(self) -> dict[Color, tuple[int, ...]]:
        """The train ids or ignored label of each colour; several if classes share the colour."""
        ids: dict[Color, tuple[int, ...]] = {}
        for train_id, color in enumerate(self.colors):
            ids[color] = (*ids.get(color, ()), train_id)
        return ids | {color: (self.ignore_label,) for color in self.ignore_colors}

    @functools.cached_property
    def contradicted_greys(self) -> tuple[int, ...]:
        """Values whose meaning differs from the meaning of their grey level, taken as a colour.

        Class colours are compared only if all of them are grey, since a grey mask cannot have been
        drawn in other colours.
        """
        if self.encoding != "auto":
            return ()

        is_grey_list = all(len(set(color)) == 1 for color in self.colors)
        greys = sorted(
            color
            for color in self.ids_of_colors
            if len(set(color)) == 1 and (is_grey_list or color in self.ignore_colors)
        )
        return tuple(color[0] for color in greys if self.contradicts(color[0], color))

    def contradicts(self, value: int, color: Color) -> bool:
        """Whether a value means something else than the colour that a mask shows for it."""
        train_id, ids_of_color = self.train_ids[value], self.ids_of_colors.get(color, ())
        is_checked = value not in self.ignored_values
        return bool(ids_of_color) and is_checked and train_id >= 0 and train_id not in ids_of_color

    def name_of(self, train_id: int) -> str:
        """Returns what errors call a train id or the ignored label."""
        if train_id == self.ignore_label:
            return "the ignored label"
        name = f" {self.class_names[train_id]!r}" if self.class_names else ""
        return f"class {train_id}{name}"


def read_mask(path: Path, coding: MaskCoding) -> np.ndarray:
    """Reads a mask file as train ids, uint8 [H, W]; raises what `decode_mask` raises."""
    return decode_mask(decoding.read_file(path), path, coding)


def decode_mask(content: bytes, name: str | Path, coding: MaskCoding) -> np.ndarray:
    """Decodes the content of a mask file as train ids, uint8 [H, W].

    Args:
      content: a lossless grey, palette or RGB image with up to 8 bits per channel; or, if the name
        ends in .mat, a MATLAB file of SBD or PASCAL Context.
      name: what errors call the mask.
    Raises:
      UserError: naming the mask, and what is wrong with it or missing in the class list.
    """
    if str(name).endswith(".mat"):
        return _ids_of_values(mask_files.decode_mat(content, name), name, coding)
    image = mask_files.open_exact(content, name, encoding=coding.encoding)
    return _ids_of_image(image, name, coding)


Reading = Literal["", "values", "colors"]


class EncodedMask(NamedTuple):
    """A mask of train ids, as a record holds it.

    png: the content of the file; empty if there is no mask.
    size: width and height; None if there is no mask.
    counts: how often each of 256 values occurs; empty if the mask was not decoded.
    chosen_reading: what --mask_encoding=auto read, "values" or "colors"; empty if there was nothing
      to choose.
    palette: if "values" were read from a palette image, the values that occur and their colours.
    """

    png: bytes
    size: tuple[int, int] | None
    counts: Sequence[int]
    chosen_reading: Reading = ""
    palette: tuple[tuple[int, Color], ...] = ()


def encode_mask(
    content: bytes, name: str | Path, coding: MaskCoding, *, verify: str = "full"
) -> EncodedMask:
    """Turns the content of a mask file into a PNG of train ids, or keeps it if it is one.

    Args:
      content, name: as in `decode_mask`.
      verify: "full"; or "header", which does not decode masks that need no change.
    Raises:
      UserError: as in `decode_mask`.
    """
    if str(name).endswith(".mat"):
        return encode_ids(decode_mask(content, name, coding))

    image = mask_files.open_exact(content, name, encoding=coding.encoding)
    reading: Reading = ""
    # Known data sets have one kind of mask, so only users' own classes leave a choice.
    if coding.class_list and coding.encoding == "auto":
        reading = "colors" if image.mode in ("RGB", "RGBA") else "values"
    if _is_plain(image, coding):
        return _encode_plain(image, content, name, coding, reading, verify)

    ids = _ids_of_image(image, name, coding)
    palette: tuple[tuple[int, Color], ...] = ()
    if image.mode == "P" and reading == "values":
        colors = _palette(image)
        palette = tuple((int(value), colors[value]) for value in _used_values(image))
    return encode_ids(ids, reading, palette)


def _encode_plain(
    image: Image.Image,
    content: bytes,
    name: str | Path,
    coding: MaskCoding,
    reading: Reading,
    verify: str,
) -> EncodedMask:
    """Keeps a grey PNG as it is if its values are train ids already; otherwise converts it."""
    if verify == "header" and not coding.index_map:  # trusts the values without reading them
        return EncodedMask(content, image.size, (), reading)

    values = decoding.decode_grey(image, name)
    _require_no_contradicted_grey(values, name, coding)
    counts = image.histogram()
    if _is_coded(counts, coding):
        return EncodedMask(content, image.size, counts, reading)
    return encode_ids(_ids_of_values(values, name, coding), reading)


def encode_ids(
    ids: np.ndarray, reading: Reading = "", palette: tuple[tuple[int, Color], ...] = ()
) -> EncodedMask:
    """Encodes train ids and the ignored label, uint8 [H, W], as a PNG."""
    # Run-length encoding suits labels: smaller files than the default level, in half the time.
    png = decoding.encode_png(Image.fromarray(ids), compress_level=1, compress_type=zlib.Z_RLE)
    size = (ids.shape[1], ids.shape[0])
    return EncodedMask(png, size, statistics.histogram(ids), reading, palette)


def _is_plain(image: Image.Image, coding: MaskCoding) -> bool:
    """Whether the file stores its values as the labels of records do: as an 8-bit grey PNG.

    `mask_files.open_exact` has refused grey PNGs of other depths.
    """
    is_grey_png = image.format == "PNG" and image.mode == "L"
    return is_grey_png and "transparency" not in image.info and coding.encoding != "color"


def _is_coded(counts: Sequence[int], coding: MaskCoding) -> bool:
    """Whether all values of a mask are train ids already; `counts` says how often each occurs."""
    ids = coding.train_ids.tolist()
    return all(not count or ids[value] == value for value, count in enumerate(counts))


def _ids_of_image(image: Image.Image, name: str | Path, coding: MaskCoding) -> np.ndarray:
    """Returns the train ids of an opened mask, uint8 [H, W], read as `coding` says."""
    with decoding.naming(name):
        image.load()
    _require_opaque(image, name, coding)
    if image.mode in ("RGBA", "LA"):
        image = image.convert(image.mode[:-1])
    if coding.encoding != "index":
        _require_agreement(image, name, coding)

    if coding.encoding == "color" or (coding.encoding == "auto" and image.mode == "RGB"):
        return _ids_of_colors(np.asarray(image.convert("RGB")), name, coding)
    values = np.asarray(image, np.uint8)  # a 1-bit image would give True and False
    if image.mode == "RGB":
        values = _equal_channel(values, name, coding)
    return _ids_of_values(values, name, coding)


def _require_opaque(image: Image.Image, name: str | Path, coding: MaskCoding) -> None:
    """Refuses transparent pixels; an alpha channel that is 255 everywhere is allowed.

    PNGs store the transparent value with 16 bits; only the lower 8 count (PNG, 2nd edition, sec.
    11.3.2.1).
    """
    if "A" in image.mode:
        is_transparent = np.asarray(image.getchannel("A")) < 255
        way_out = ""
    elif "transparency" not in image.info:
        return
    elif image.mode == "RGB":  # one colour is transparent
        color = np.bitwise_and(image.info["transparency"], 255)
        is_transparent = (np.asarray(image) == color).all(axis=-1)
        way_out = ""
    elif coding.encoding == "index":
        return
    else:  # grey or palette
        alpha = np.full(256, 255)
        if isinstance(image.info["transparency"], bytes):  # the alpha of the first indices
            alpha[: len(image.info["transparency"])] = list(image.info["transparency"])
        else:  # one transparent index or grey value, which Pillow calls 255 for the 1 of 1 bit
            value = image.info["transparency"]
            # An int: NumPy would take True or False for a mask of the whole array.
            alpha[int(bool(value)) if image.mode == "1" else value & 255] = 0
        is_transparent = alpha[np.asarray(image).astype(np.uint8)] < 255
        way_out = ", or give --mask_encoding=index, which takes all values as they are stored"

    if is_transparent.any():
        raise UserError(
            f"The mask {name} has transparent pixels, which have no class; save it without "
            f"transparency{way_out}."
        )


def _palette(image: Image.Image) -> list[Color]:
    """Returns the colour that a palette or 1-bit image shows for each index."""
    if image.mode == "1":
        return [(0, 0, 0), (255, 255, 255)]
    flat = image.getpalette() or []
    return list(zip(flat[::3], flat[1::3], flat[2::3], strict=True))


def _used_values(image: Image.Image) -> np.ndarray:
    """Returns the values that occur in an image, ascending; 0 and 1 for a 1-bit image."""
    counts = np.array(image.histogram())
    return np.flatnonzero(counts[[0, 255]] if image.mode == "1" else counts)


def _require_agreement(image: Image.Image, name: str | Path, coding: MaskCoding) -> None:
    """Refuses a palette that lacks a used index, and values shown in another class's colour."""
    if image.mode == "L" and coding.encoding == "auto":
        _require_no_contradicted_grey(np.asarray(image), name, coding)
    if image.mode not in ("P", "1"):
        return

    shown, used = _palette(image), _used_values(image)
    if used[-1] >= len(shown):
        raise UserError(
            f"The mask {name} has the index {used[-1]}, but a palette of "
            f"{counted(len(shown), 'colour')}; "
            "save it with a palette of 256, or give --mask_encoding=index, which needs none."
        )
    if coding.encoding == "color":
        return

    # A colour that several indices show was not chosen for any of them: it fills the palette.
    times = Counter(shown)
    for value in used.tolist():
        if coding.contradicts(value, shown[value]) and times[shown[value]] == 1:
            raise UserError(_disagreement("index", value, name, shown[value], coding))

    # A palette of distinct greys may be a grey mask whose values a compressor has renumbered. Then
    # the greys are train ids as well, but different ones from the indices. There is no doubt if the
    # class list gives the classes these greys as colours.
    greys = [shown[value] for value in used if len(set(shown[value])) == 1]
    if image.mode != "P" or len(greys) < len(used) or any(times[grey] > 1 for grey in greys):
        return
    ids = coding.train_ids[used]
    is_listed = all(
        train_id in coding.ids_of_colors.get(grey, ())
        for grey, train_id in zip(greys, ids.tolist(), strict=True)
    )
    ids_of_greys = coding.train_ids[[grey[0] for grey in greys]]
    if not is_listed and (ids_of_greys >= 0).all() and (ids_of_greys != ids).any():
        value = int(used[np.argmax(ids_of_greys != ids)])
        raise UserError(
            f"The mask {name} shows grey {shown[value][0]} for the index {value}, and either may "
            "be meant; save it as a grey PNG if the grey is, or give --mask_encoding=index."
        )


def _require_no_contradicted_grey(values: np.ndarray, name: str | Path, coding: MaskCoding) -> None:
    """Refuses a grey mask with values that, as grey levels, are the colour of something else."""
    for value in coding.contradicted_greys:
        if (values == value).any():
            raise UserError(_disagreement("value", value, name, (value,) * 3, coding))


def _disagreement(what: str, value: int, name: str | Path, color: Color, coding: MaskCoding) -> str:
    """Returns the error message for a value and a colour of different meaning."""
    by_value = coding.name_of(int(coding.train_ids[value]))
    by_color = " or ".join(map(coding.name_of, coding.ids_of_colors[color]))
    return (
        f"The mask {name} has the {what} {value}, which means {by_value}, but its colour "
        f"{_shown_color(color)} means {by_color}; give --mask_encoding=color if the colours count, "
        "or --mask_encoding=index if the values do."
    )


# From values or colours to train ids.


def _equal_channel(rgb: np.ndarray, name: str | Path, coding: MaskCoding) -> np.ndarray:
    """Returns the values of an RGB mask, which are the same in all its channels."""
    values = rgb[..., 0]
    if not _has_equal_channels(rgb):
        way_out = (
            "leave --mask_encoding=index out" if coding.class_list else "save it as a grey PNG"
        )
        raise UserError(
            f"The mask {name} holds colours, not indices: its channels R, G and B differ; "
            f"{way_out}."
        )
    return values


def _has_equal_channels(rgb: np.ndarray) -> bool:
    return bool((rgb == rgb[..., :1]).all())


def _ids_of_values(values: np.ndarray, name: str | Path, coding: MaskCoding) -> np.ndarray:
    """Maps stored values, integer [H, W], to train ids, uint8 [H, W]."""
    ids = np.take(coding.train_ids, values, mode="clip")
    if values.dtype != np.uint8:  # of a MATLAB file, so that values beyond the table were clipped
        ids[(values < 0) | (values >= len(coding.train_ids))] = -1

    if (ids < 0).any():
        table = coding.train_ids
        classes = np.flatnonzero((table >= 0) & (table != coding.ignore_label))
        ignored = np.flatnonzero(table == coding.ignore_label)
        raise UserError(
            f"The mask {name} holds the value {_listed(np.unique(values[ids < 0]))}, which is not "
            f"in the class list ({_ranges(classes)}) and not ignored "
            f"({_ranges(ignored) or 'no value is'}){_way_out_for_values(values, coding)}."
        )
    return ids.astype(np.uint8)


def _way_out_for_values(values: np.ndarray, coding: MaskCoding) -> str:
    """Returns what the user can do about values that are not in the class list."""
    if not coding.class_list:
        return ""
    if all((value,) * 3 in coding.ids_of_colors for value in np.unique(values).tolist()):
        return "; give --mask_encoding=color if its greys are class colours"
    return (
        "; add its class, state the values of each class in a column label_id, or ignore it with "
        "--ignore_label"
    )


def _ids_of_colors(rgb: np.ndarray, name: str | Path, coding: MaskCoding) -> np.ndarray:
    """Maps colours, uint8 [H, W, 3], to train ids, uint8 [H, W]."""
    if not coding.colors:
        raise UserError(
            f"The mask {name} is drawn in colours, and the class list {coding.class_list} has "
            "none; give it the columns r, g and b"
            + (", or give --mask_encoding=index." if _has_equal_channels(rgb) else ".")
        )
    for color, ids in coding.ids_of_colors.items():
        if len(ids) > 1:
            raise UserError(
                f"The mask {name} is drawn in colours and cannot be read: "
                f"{' and '.join(map(coding.name_of, ids))} of {coding.class_list} share the colour "
                f"{_shown_color(color)}; give each class its own colour."
            )
    if len(coding.ignored_values) > 1:
        raise UserError(
            f"The mask {name} is drawn in colours, and --ignore_label="
            f"{','.join(map(str, coding.ignored_values))} names values; give --ignore_colors."
        )

    codes = rgb.astype(np.int32)
    codes = (codes[..., 0] << 16) | (codes[..., 1] << 8) | codes[..., 2]
    id_of_color = tuple((color, ids[0]) for color, ids in coding.ids_of_colors.items())
    train_ids = _ids_of_codes(id_of_color)[codes]

    is_unknown = train_ids < 0
    if is_unknown.any():
        unknown = [tuple(map(int, color)) for color in np.unique(rgb[is_unknown], axis=0)]
        raise UserError(
            f"The mask {name} has the colour {_listed(unknown)}, which is not in the class list; "
            + (
                "its R, G and B are equal: give --mask_encoding=index if they are indices."
                if _has_equal_channels(rgb) and coding.encoding == "auto"
                else "add it there, or to --ignore_colors."
            )
        )
    return train_ids.astype(np.uint8)


@functools.lru_cache(maxsize=1)
def _ids_of_codes(id_of_color: tuple[tuple[Color, int], ...]) -> np.ndarray:
    """Returns the train id of each colour r << 16 | g << 8 | b, int16; -1 for unknown colours.

    The table takes 32 MiB, but is faster than a search for each pixel.
    """
    table = np.full(1 << 24, -1, np.int16)
    for (red, green, blue), train_id in id_of_color:
        table[red << 16 | green << 8 | blue] = train_id
    return table


def _shown_color(color: Color) -> str:
    return f"({', '.join(map(str, color))})"


def _listed(values: Sequence) -> str:
    shown = ", ".join(str(value) for value in values[:5])
    return shown + (f" (and {len(values) - 5} more)" if len(values) > 5 else "")


def _ranges(values: Iterable[int]) -> str:
    """Returns ascending numbers as "7, 8, 11 to 13"."""
    runs: list[list[int]] = []
    for value in values:
        if runs and value == runs[-1][1] + 1:
            runs[-1][1] = int(value)
        else:
            runs.append([int(value), int(value)])
    texts = [
        str(first) if first == last else f"{first}{', ' if last == first + 1 else ' to '}{last}"
        for first, last in runs
    ]
    return ", ".join(texts)
