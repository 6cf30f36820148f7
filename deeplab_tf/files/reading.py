"""Reads files, which must be regular ones of a limited size, and text in any encoding."""

import codecs
import errno
import os
import re
import stat
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from deeplab_tf.files.names import shown
from deeplab_tf.messages import UserError

# The largest files that are read into memory: more than an image of the largest size can need, and
# more than any list.
_MOST_BYTES, _MOST_BYTES_OF_TEXT = 2**30, 2**27
_BLOCK = 1 << 20
# The order matters: UTF-32's mark starts with UTF-16's.
_MARKS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
# What `read_lines` drops around lines; no white space is above U+3000. A regular expression would
# take quadratic time in lines of many spaces.
_AROUND_LINES = "".join(filter(str.isspace, map(chr, range(0x3001)))) + "\ufeff\u200b"


def open_regular(path: Path) -> BinaryIO:
    """Opens a file for reading, without a buffer.

    Raises:
      OSError: if it cannot be opened, or is not a file, such as a pipe or a device: those may keep
        a program waiting, or never end.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # else a pipe waits for its writer
    mode = os.fstat(descriptor).st_mode
    if stat.S_ISREG(mode):
        return os.fdopen(descriptor, "rb", buffering=0)
    os.close(descriptor)
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    raise OSError(errno.EINVAL, "it is a pipe or a device, not a file", str(path))


def read_bytes(path: Path, *, most: int = _MOST_BYTES) -> bytes:
    """Reads a file of at most `most` bytes.

    Raises:
      OSError: if it cannot be read, is larger, is being written, or is not a file.
    """
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        content = file.read(size) if size <= most else b""
        # Some network file systems return less than was asked for, and others give no size.
        while size <= most and len(content) <= most and (rest := file.read(_BLOCK)):
            content += rest

    if max(size, len(content)) > most:
        limit = f"it has more than {most >> 20} MiB, the most that is read"
        raise OSError(errno.EFBIG, limit, str(path))
    if size and len(content) != size:
        raise OSError(errno.EBUSY, "another program is writing it", str(path))
    return content


def read_lines(
    path: Path, what: str, *, is_content: Callable[[str], bool] = lambda line: False
) -> list[tuple[int, str]]:
    """Reads a text list; returns number (from 1) and text of each line with content.

    The file may be UTF-8, with or without a byte order mark, or UTF-16 or UTF-32 with one, with the
    line ends of any system. Around lines, white space (what `str.isspace` says) and what nobody
    sees (U+FEFF, the byte order mark of joined files, and U+200B, a space of zero width) are
    dropped. So are empty lines and comments, which start with '#'.

    Args:
      what: what errors call the file, such as "The class list".
      is_content: whether a line that starts with '#' is content after all: file names may start so.
    Raises:
      UserError: if the file is missing, is not text, has another encoding, or has no content.
    """
    numbered = enumerate(read_text(path, what).split("\n"), start=1)
    stripped = ((number, line.strip(_AROUND_LINES)) for number, line in numbered)
    lines = [
        (number, line)
        for number, line in stripped
        if line and (not line.startswith("#") or is_content(line))
    ]
    if not lines:
        raise UserError(f"{what} {shown(path)} is empty, or has only comments.")
    return lines


def read_text(path: Path, what: str, *, most: int = _MOST_BYTES_OF_TEXT) -> str:
    r"""Reads a text file in any encoding that `read_lines` takes; its lines end in \n.

    Args:
      what: what errors call the file.
      most: the largest size, in bytes.
    Raises:
      UserError: if the file is missing or larger, is not text, or has another encoding.
    """
    name = f"{what} {shown(path)}"
    try:
        content = read_bytes(path, most=most)
    except FileNotFoundError:
        raise UserError(f"{name} does not exist.") from None
    except OSError as error:
        raise UserError(f"{name} cannot be read: {error.strerror}.") from None
    return re.sub(r"\r\n|\r", "\n", _decoded(content, name))


def _decoded(content: bytes, name: str) -> str:
    """Returns the text of a file, decoded by its byte order mark, else as UTF-8."""
    encoding = next((code for mark, code in _MARKS.items() if content.startswith(mark)), "utf-8")
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as error:
        line = len(re.findall(rb"\r\n|\r|\n", content[: error.start])) + 1
        place = f" in line {line}" if encoding.startswith("utf-8") else ""
        raise UserError(
            f"{name} is not UTF-8 text{place}; save it as UTF-8 ('iconv -f LATIN1 -t UTF-8' "
            "converts what older programs write)."
        ) from None

    if re.search("[\0-\x08\x0e-\x1f]", text):
        raise UserError(
            f"{name} is not text: it holds control characters; give a text file in UTF-8."
        )
    return text
