"""What an encoded image's header says, in a graph: a server reads it before it decodes.

What `conversion.read_image` refuses, or gives other pixels for than TensorFlow's decoder, has no
size here. How EXIF data turn an image is read here too, since TensorFlow's decoder leaves it.
"""

import tensorflow as tf

_PNG = b"\x89PNG\r\n\x1a\n"
_HEADER = 26  # PNG (2nd edition) sec. 11.2.2: IHDR, from byte 12, ends with depth and colour type
_ORIENTATION = 0x0112  # EXIF 2.32 sec. 4.6.4; 1 is upright
_MOST_SEGMENTS = 65536  # a PNG of 512 MB has as many chunks of the usual size


def image_size(encoded: tf.Tensor) -> tf.Tensor:
    """Reads height and width of a JPEG or PNG, turned as its EXIF data say, without decoding it.

    Args:
      encoded: scalar string, a file's bytes.
    Returns:
      int64 [2]; 0 and 0 if it is neither, a PNG of 16 bits a channel, or a JPEG in CMYK, which
      TensorFlow converts to other colours than Pillow.
    Raises:
      InvalidArgumentError: if a JPEG's header is damaged.
    """
    padded = tf.strings.join([tf.strings.substr(encoded, 0, _HEADER), b"\0" * _HEADER])
    size = tf.cond(
        tf.io.is_jpeg(encoded),
        lambda: _jpeg_size(encoded),
        lambda: _png_size(padded),
    )
    size.set_shape([2])
    size = tf.where(orientation(encoded) >= 5, size[::-1], size)  # these swap the axes
    return tf.cast(size, tf.int64)


def _jpeg_size(encoded):
    shape = tf.io.extract_jpeg_shape(encoded)
    return tf.where(shape[2] <= 3, shape[:2], 0)


def _png_size(header):
    width_height = tf.io.decode_raw(
        tf.strings.substr(header, 16, 8), tf.int32, little_endian=False, fixed_length=8
    )
    whole = tf.equal(tf.strings.substr(header, 0, 8), _PNG)
    whole &= tf.equal(tf.strings.substr(header, 12, 4), b"IHDR")
    whole &= tf.not_equal(tf.strings.substr(header, 24, 1), b"\x10")  # 16 bits
    return tf.where(whole, tf.maximum(width_height[::-1], 0), 0)


def upright(image: tf.Tensor, encoded: tf.Tensor) -> tf.Tensor:
    """Turns uint8 [H, W, 3], decoded from `encoded`, as its EXIF data say."""
    turn = orientation(encoded)
    image = tf.cond(turn >= 5, lambda: tf.transpose(image, [1, 0, 2]), lambda: image)
    # Clockwise by 90 degrees (6), for one, is the swap of the axes, then a mirror.
    mirrored = tf.reduce_any(turn == [2, 3, 6, 7])
    image = tf.cond(mirrored, lambda: image[:, ::-1], lambda: image)
    upside_down = tf.reduce_any(turn == [3, 4, 7, 8])
    return tf.cond(upside_down, lambda: image[::-1], lambda: image)


def orientation(encoded: tf.Tensor) -> tf.Tensor:
    """Reads the EXIF orientation of a JPEG or PNG: int32 scalar, 1 to 8; 1 if there is none."""
    is_jpeg = tf.io.is_jpeg(encoded)
    length = tf.strings.length(encoded)

    def more(position, exif):
        return (position + 12 <= length) & tf.equal(exif, "")

    def walk(position, exif):
        step, exif = tf.cond(
            is_jpeg, lambda: _jpeg_segment(encoded, position), lambda: _png_chunk(encoded, position)
        )
        return position + tf.minimum(step, length - position), exif

    # Loops cost as many steps as the file has segments; files of other kinds have none.
    start = tf.where(is_jpeg, 2, 8)
    known = is_jpeg | tf.equal(tf.strings.substr(encoded, 0, 8), _PNG)
    _, exif = tf.while_loop(
        more,
        walk,
        (tf.where(known, start, length), tf.constant("")),
        maximum_iterations=_MOST_SEGMENTS,
    )
    return tf.cond(tf.strings.length(exif) >= 8, lambda: _orientation_of(exif), lambda: 1)


def _jpeg_segment(encoded, position):
    """Returns the distance to the next segment, and this one's EXIF data; ITU-T T.81 B.1.1."""
    head = _numbers(tf.strings.substr(encoded, position, 4), 4)
    is_marker = tf.equal(head[0], 0xFF) & tf.not_equal(head[1], 0xFF)  # others fill
    size = 256 * head[2] + head[3]
    is_exif = is_marker & tf.equal(head[1], 0xE1)
    is_exif &= tf.equal(tf.strings.substr(encoded, position + 4, 6), b"Exif\0\0")
    exif = tf.where(is_exif, tf.strings.substr(encoded, position + 10, tf.maximum(size - 8, 0)), "")
    at_end = is_marker & tf.equal(head[1], 0xDA)  # the scan: pixels
    step = tf.where(is_marker, 2 + size, 1)
    return tf.where(at_end, _FAR, step), exif


def _png_chunk(encoded, position):
    """Returns the distance to the next chunk, and this one's EXIF data; PNG sec. 5.3."""
    head = _numbers(tf.strings.substr(encoded, position, 4), 4)
    fits = head[0] < 0x40  # a longer chunk than 1 GB would leave int32's range
    size = tf.reduce_sum(tf.where(fits, head, 0) * [1 << 24, 1 << 16, 1 << 8, 1])
    is_exif = fits & tf.equal(tf.strings.substr(encoded, position + 4, 4), b"eXIf")
    exif = tf.where(is_exif, tf.strings.substr(encoded, position + 8, size), "")
    return tf.where(fits, size + 12, _FAR), exif


_FAR = 2**30


def _orientation_of(exif):
    """Reads the tag of EXIF data: a TIFF header and its first directory; TIFF 6.0 sec. 2."""
    order = tf.strings.substr(exif, 0, 2)
    swapped = tf.equal(order, b"MM")

    def number(values):  # int32 [..., 2 or 4], bytes
        values = tf.cond(swapped, lambda: values[..., ::-1], lambda: values)
        weights = [1, 1 << 8, 1 << 16, 1 << 24][: values.shape[-1]]
        return tf.reduce_sum(values * weights, axis=-1)

    header = _numbers(tf.strings.substr(exif, 0, 8), 8)
    start = number(header[4:8])
    is_tiff = (tf.equal(order, b"II") | swapped) & tf.equal(number(header[2:4]), 42)
    is_tiff &= (start >= 8) & (start <= tf.strings.length(exif) - 2)
    start = tf.where(is_tiff, start, 0)
    count = tf.where(is_tiff, number(_numbers(tf.strings.substr(exif, start, 2), 2)), 0)

    # As many entries as are there whole: tag, type, count, value.
    entries = tf.strings.substr(exif, start + 2, 12 * count)
    whole = tf.strings.length(entries) // 12 * 12
    entries = tf.io.decode_raw(tf.strings.substr(entries, 0, whole), tf.uint8)
    entries = tf.cast(tf.reshape(entries, [-1, 12]), tf.int32)
    kind = number(entries[:, 2:4])
    values = {1: entries[:, 8], 3: number(entries[:, 8:10]), 4: number(entries[:, 8:12])}
    value = tf.add_n([tf.where(kind == size, found, 0) for size, found in values.items()])
    wanted = (number(entries[:, 0:2]) == _ORIENTATION) & (number(entries[:, 4:8]) == 1)
    found = tf.concat([[1], tf.boolean_mask(value, wanted)], axis=0)[-1]
    return tf.where((found >= 1) & (found <= 8), found, 1)


def _numbers(text, length):
    """Returns the bytes of a scalar string, cut or filled with 0 to `length`, as int32."""
    return tf.cast(tf.io.decode_raw(text, tf.uint8, fixed_length=length), tf.int32)
