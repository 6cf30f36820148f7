"""Checksums in the small files of a run.

A changed digit in a score or a setting is still a score or a setting: only a checksum shows the
damage. Files of earlier versions have none, and are read as they are.
"""

import json
import zlib

_KEY = "checksum"
_KIND = "crc32"


def checksum(text: str) -> str:
    """Returns the checksum of a text, such as "crc32 1a2b3c4d"."""
    return f"{_KIND} {zlib.crc32(text.encode()):08x}"


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
        # A checksum under another name is one whose key is damaged, and perhaps its digits too.
        is_sealed = any(isinstance(value, str) and _KIND in value for value in content.values())
        return None if is_sealed else content
    return content if noted == checksum(json.dumps(content)) else None
