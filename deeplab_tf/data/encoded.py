"""Reads headers of encoded images inside a TensorFlow graph: kind, size and EXIF orientation.

Servers and readers of records look at the header before they decode an image. Files that
`image_files.read_image` refuses, or decodes to other pixels than TensorFlow, get the size 0. The
orientation is read here because TensorFlow's decoder ignores it.
"""

import functools

import tensorflow as tf

_PNG = b"\x89PNG\r\n\x1a\n"
# PNG (2nd edition) sec. 11.2.2: IHDR, from byte 8, holds 13 bytes, such as depth and colour type.
_PNG_START = _PNG + b"\0\0\0\x0dIHDR"
_HEADER = 26
_ORIENTATION = 0x0112  # EXIF 2.32 sec. 4.6.4; 1 is upright
_MOST_SEGMENTS = 65536  # as many chunks of the usual size as a PNG of 512 MB has


def image_size(encoded: tf.Tensor) -> tf.Tensor:
    """Reads height and width of a JPEG or PNG as `stored_size` does, of the upright image.

    EXIF data may swap the two.
    """
    size = stored_size(encoded)
    return tf.where(orientation(encoded) >= 5, size[::-1], size)  # 5 to 8 swap the axes


def stored_size(encoded: tf.Tensor) -> tf.Tensor:
    """Reads height and width of a JPEG or PNG as it is stored, without decoding it.

    Args:
      encoded: scalar string, the bytes of the file.
    Returns:
      int64 [2]. Both are 0 if the file is neither JPEG nor PNG, or a PNG with 16 bits per channel,
      or a CMYK JPEG, which TensorFlow converts to other colours than Pillow.
    Raises:
      InvalidArgumentError: if the header of a JPEG is damaged.
    """
    size = tf.cond(
        tf.io.is_jpeg(encoded),
        lambda: _jpeg_size(encoded),
        lambda: _png_size(_header(encoded)),
    )
    size.set_shape([2])
    return tf.cast(size, tf.int64)


def planes_size(encoded: tf.Tensor, *, channels: int, bits: int) -> tf.Tensor:
    """Reads height and width of an image whose channels lie below each other in a grey PNG.

    Args:
      bits: 8 or 16, of the PNG.
    Returns:
      int64 [2], of one channel. Both are 0 if it is another kind of file.
    """
    header = _header(encoded)
    width_height = tf.io.decode_raw(
        tf.strings.substr(header, 16, 8), tf.int32, little_endian=False, fixed_length=8
    )
    height, width = width_height[1], width_height[0]
    is_readable = is_grey_png(encoded, bits=bits)
    is_readable &= tf.equal(height % channels, 0) & (width > 0) & (height > 0)
    return tf.cast(tf.where(is_readable, tf.stack([height // channels, width]), 0), tf.int64)


def is_grey_png(encoded: tf.Tensor, *, bits: int = 8) -> tf.Tensor:
    """Whether a file is a grey PNG, of 8 bits as the labels of records are: bool scalar.

    TensorFlow changes the values of all other files when it decodes them: it turns palettes into
    luminances, scales 1 bit to 0 and 255, and keeps only the upper half of 16 bits.
    """
    header = _header(encoded)
    is_png = tf.equal(tf.strings.substr(header, 0, 16), _PNG_START)
    return is_png & tf.equal(tf.strings.substr(header, 24, 2), bytes([bits, 0]))  # depth, colours


def _header(encoded):
    # Padded with zeros, so that shorter files can be sliced too.
    return tf.strings.join([tf.strings.substr(encoded, 0, _HEADER), b"\0" * _HEADER])


def _jpeg_size(encoded):
    shape = tf.io.extract_jpeg_shape(encoded)
    return tf.where(shape[2] <= 3, shape[:2], 0)


def _png_size(header):
    width_height = tf.io.decode_raw(
        tf.strings.substr(header, 16, 8), tf.int32, little_endian=False, fixed_length=8
    )
    is_readable = tf.equal(tf.strings.substr(header, 0, 16), _PNG_START)
    is_readable &= tf.not_equal(tf.strings.substr(header, 24, 1), b"\x10")  # 16 bits per channel
    return tf.where(is_readable, tf.maximum(width_height[::-1], 0), 0)


def upright(image: tf.Tensor, encoded: tf.Tensor) -> tf.Tensor:
    """Turns an image upright: uint8 [H, W, 3], decoded from `encoded`, as its EXIF data say."""
    # Each orientation is a swap of the axes, then a mirroring, then a flip, or some of the three:
    # a quarter turn clockwise (6), for example, is the swap and the mirroring.
    turn = orientation(encoded)
    image = tf.cond(turn >= 5, lambda: tf.transpose(image, [1, 0, 2]), lambda: image)
    mirrored = tf.reduce_any(turn == [2, 3, 6, 7])
    image = tf.cond(mirrored, lambda: image[:, ::-1], lambda: image)
    upside_down = tf.reduce_any(turn == [3, 4, 7, 8])
    return tf.cond(upside_down, lambda: image[::-1], lambda: image)


def orientation(encoded: tf.Tensor) -> tf.Tensor:
    """Reads the EXIF orientation of a JPEG or PNG: int64 scalar, 1 to 8; 1 if there is none."""
    exif = _exif(encoded)
    upright = tf.constant(1, tf.int64)
    return tf.cond(tf.strings.length(exif) >= 8, lambda: _orientation_of(exif), lambda: upright)


def _exif(encoded):
    """Returns the EXIF data of a JPEG or PNG, starting at their TIFF header; "" if it has none.

    It walks from segment to segment, because bytes that look like EXIF data may also occur inside
    another segment.
    """
    length = tf.cast(tf.strings.length(encoded), tf.int64)
    is_jpeg = tf.io.is_jpeg(encoded)
    is_png = tf.equal(tf.strings.substr(encoded, 0, 8), _PNG)

    def is_unfinished(position, exif):
        return (position + 12 <= length) & tf.equal(exif, "")

    def read_one(position, _):
        return tf.cond(
            is_jpeg,
            lambda: _jpeg_segment(encoded, position, length),
            lambda: _png_chunk(encoded, position),
        )

    start = tf.cast(tf.where(is_jpeg, 2, 8), tf.int64)  # after the file's signature
    start = tf.where(is_jpeg | is_png, start, length)
    _, exif = tf.while_loop(
        is_unfinished, read_one, (start, tf.constant("")), maximum_iterations=_MOST_SEGMENTS
    )
    return exif


def _jpeg_segment(encoded, position, end):
    """Returns where the next segment starts, and this one's EXIF data; ITU-T T.81 B.1.1."""
    marker = _bytes(encoded, position, 2)
    is_marker = tf.equal(marker[0], 0xFF) & tf.not_equal(marker[1], 0xFF)  # else a fill byte
    size = _number(_bytes(encoded, position + 2, 2))
    following = position + tf.where(is_marker, 2 + size, 1)
    is_scan = is_marker & tf.equal(marker[1], 0xDA)  # from here on there are only pixels

    is_exif = is_marker & tf.equal(marker[1], 0xE1)
    is_exif &= tf.equal(tf.strings.substr(encoded, position + 4, 6), b"Exif\0\0")
    exif = tf.strings.substr(encoded, position + 10, tf.maximum(size - 8, 0))
    return tf.where(is_scan, end, following), tf.where(is_exif, exif, "")


def _png_chunk(encoded, position):
    """Returns where the next chunk starts, and this one's EXIF data; PNG sec. 5.3."""
    size = _number(_bytes(encoded, position, 4))
    is_exif = tf.equal(tf.strings.substr(encoded, position + 4, 4), b"eXIf")
    exif = tf.strings.substr(encoded, position + 8, size)
    return position + size + 12, tf.where(is_exif, exif, "")


def _orientation_of(exif):
    """Reads the orientation tag from the first directory of EXIF data; TIFF 6.0 sec. 2."""
    # The TIFF header: byte order, the number 42, and where the first directory starts.
    order = tf.strings.substr(exif, 0, 2)
    number = functools.partial(_number, low_first=tf.equal(order, b"II"))
    start = number(_bytes(exif, 4, 4))
    is_tiff = tf.equal(order, b"II") | tf.equal(order, b"MM")
    is_tiff &= tf.equal(number(_bytes(exif, 2, 2)), 42)
    is_tiff &= (start >= 8) & (start <= tf.cast(tf.strings.length(exif), tf.int64) - 2)
    start = tf.where(is_tiff, start, 0)
    count = tf.where(is_tiff, number(_bytes(exif, start, 2)), 0)

    # Entries of 12 bytes: tag, type, count, value. If the file is cut, only the complete ones.
    entries = tf.strings.substr(exif, start + 2, 12 * count)
    complete = tf.strings.length(entries) // 12 * 12
    entries = tf.io.decode_raw(tf.strings.substr(entries, 0, complete), tf.uint8)
    entries = tf.cast(tf.reshape(entries, [-1, 12]), tf.int64)

    # The value takes 1, 2 or 4 bytes, by its type.
    kind = number(entries[:, 2:4])
    value_of_kind = {1: entries[:, 8], 3: number(entries[:, 8:10]), 4: number(entries[:, 8:12])}
    values = tf.add_n([tf.where(kind == k, value, 0) for k, value in value_of_kind.items()])

    # The last orientation in the directory counts, and 1 if there is none.
    is_orientation = number(entries[:, 0:2]) == _ORIENTATION
    is_orientation &= number(entries[:, 4:8]) == 1
    turn = tf.concat([[1], tf.boolean_mask(values, is_orientation)], axis=0)[-1]
    return tf.where((turn >= 1) & (turn <= 8), turn, 1)


def _bytes(text, position, count):
    """Returns `count` bytes of a string starting at `position`, int64; 0 beyond its end."""
    part = tf.strings.substr(text, position, count)
    return tf.cast(tf.io.decode_raw(part, tf.uint8, fixed_length=count), tf.int64)


def _number(values, low_first=False):
    """Turns bytes [..., n] into unsigned numbers [...], int64 so that 4 bytes fit."""
    values = tf.where(low_first, values, values[..., ::-1])
    return tf.reduce_sum(values * [256**place for place in range(values.shape[-1])], axis=-1)
