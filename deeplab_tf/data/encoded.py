"""What an encoded image's header says, in a graph: a server reads it before it decodes."""

import tensorflow as tf

_PNG = b"\x89PNG\r\n\x1a\n"
_HEADER = 26  # PNG (2nd edition) sec. 11.2.2: IHDR, from byte 12, ends with depth and colour type


def image_size(encoded: tf.Tensor) -> tf.Tensor:
    """Reads height and width of a JPEG or PNG without decoding it.

    Args:
      encoded: scalar string, a file's bytes.
    Returns:
      int64 [2]; 0 and 0 if it is neither, or grey with 16 bits, which
      `conversion.read_image` refuses too.
    Raises:
      InvalidArgumentError: if a JPEG's header is damaged.
    """
    padded = tf.strings.join([tf.strings.substr(encoded, 0, _HEADER), b"\0" * _HEADER])
    size = tf.cond(
        tf.io.is_jpeg(encoded),
        lambda: tf.io.extract_jpeg_shape(encoded)[:2],
        lambda: _png_size(padded),
    )
    size.set_shape([2])
    return tf.cast(size, tf.int64)


def _png_size(header):
    width_height = tf.io.decode_raw(
        tf.strings.substr(header, 16, 8), tf.int32, little_endian=False, fixed_length=8
    )
    whole = tf.equal(tf.strings.substr(header, 0, 8), _PNG)
    whole &= tf.equal(tf.strings.substr(header, 12, 4), b"IHDR")
    whole &= tf.not_equal(tf.strings.substr(header, 24, 2), b"\x10\x00")  # 16 bits, grey
    return tf.where(whole, tf.maximum(width_height[::-1], 0), 0)
