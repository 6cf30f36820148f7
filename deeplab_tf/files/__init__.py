"""Users' files: listed, read and written; the names that they may have.

Uses only the standard library, so every module may import it.
"""

from deeplab_tf.files.image_headers import (
    JPEG_END,
    JPEG_FRAMES,
    JPEG_SCAN,
    JPEG_UNUSED,
    deeper_than_8_bits,
    exif_orientation,
    jpeg_segments,
)
from deeplab_tf.files.listing import (
    ARRAY_ENDING,
    IMAGE_ENDINGS,
    Listing,
    find_images,
    first_of_equals,
    is_video,
    list_folder,
    warn_of_left_out,
)
from deeplab_tf.files.names import (
    folded,
    path_below,
    require_plain,
    safe_name,
    same_place,
    shown,
)
from deeplab_tf.files.reading import (
    open_regular,
    read_bytes,
    read_lines,
    read_text,
)
from deeplab_tf.files.writing import (
    building_folder,
    require_writable,
    sole_writer,
    write,
)

__all__ = [
    "ARRAY_ENDING",
    "IMAGE_ENDINGS",
    "JPEG_END",
    "JPEG_FRAMES",
    "JPEG_SCAN",
    "JPEG_UNUSED",
    "Listing",
    "building_folder",
    "deeper_than_8_bits",
    "exif_orientation",
    "find_images",
    "first_of_equals",
    "folded",
    "is_video",
    "jpeg_segments",
    "list_folder",
    "open_regular",
    "path_below",
    "read_bytes",
    "read_lines",
    "read_text",
    "require_plain",
    "require_writable",
    "safe_name",
    "same_place",
    "shown",
    "sole_writer",
    "warn_of_left_out",
    "write",
]
