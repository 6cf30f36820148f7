"""Checksums in the small files of a run.

A changed digit in a score or a setting is still a score or a setting: only a checksum shows the
damage. Files of earlier versions have none, and are read as they are.
"""

import json
import re
import zlib
from typing import Any

_KEY = "checksum"
_LOOKS_LIKE_ONE = re.compile("crc32 [0-9a-f]{8}")


def checksum(text: str) -> str:
    """Returns the checksum of a text, such as "crc32 1a2b3c4d"."""
    return f"crc32 {zlib.crc32(text.encode()):08x}"


def to_json(content: dict, *, indent: int | None = None) -> str:
    """Returns an object as JSON, with its checksum as the last key."""
    return json.dumps(content | {_KEY: checksum(json.dumps(content))}, indent=indent)


def from_json(text: bytes) -> dict | None:
    """Reads what `to_json` wrote, without the checksum; returns None if it is damaged.

    An object without a checksum is returned as it is.
    """
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):  # not JSON, not even UTF-8, or brackets without end
        return None
    if not isinstance(content, dict):
        return None

    noted = content.pop(_KEY, None)
    if noted is None:
        return None if any(map(_is_checksum, content.values())) else content  # the key is damaged
    return content if noted == checksum(json.dumps(content)) else None


def _is_checksum(value: Any) -> bool:
    return isinstance(value, str) and bool(_LOOKS_LIKE_ONE.fullmatch(value))
