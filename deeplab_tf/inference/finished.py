"""What earlier calls of predict have finished in a folder, and with which model.

The folder `finished` beside the outputs holds model.json, which says what decides the outputs, and
one list of images for each shard, so that shards on several hosts can share the folder. A list
grows by a line for each image, after all of its outputs were written.
"""

import contextlib
import hashlib
import json
import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from deeplab_tf import files
from deeplab_tf.messages import UserError, shortened

_FOLDER, _MODEL = "finished", "model.json"


class Finished:
    """The finished images of one folder."""

    def __init__(self, output_dir: Path, decides: Mapping[str, Any], *, shard: str = ""):
        """Reads what was finished, and claims the folder for this model.

        Args:
          decides: what decides the outputs for an image, by what a user calls it, as JSON values.
          shard: K/N, whose list this call writes.
        Raises:
          UserError: if the folder holds predictions that something else decided.
        """
        self._folder = output_dir / _FOLDER
        self._list = self._folder / f"{shard.replace('/', '-of-') or 'all'}.jsonl"
        wanted = json.loads(json.dumps(decides))
        found = self._claim(wanted)
        different = [key for key in {**wanted, **found} if wanted.get(key) != found.get(key)]
        if different:
            key = different[0]
            old, new = (shortened(_text(each.get(key)), most=80) for each in (found, wanted))
            raise UserError(
                f"--output_dir={files.shown(output_dir)} holds predictions with another {key} "
                f"({old}; now {new}); give another folder, or remove that one."
            )
        self._states = self._read()

    def has(self, name: str, state: Any) -> bool:
        """Whether an image was finished in the state that it is in; None is never finished."""
        return state is not None and self._states.get(name) == state

    def note(self, name: str, state: Any) -> None:
        """Notes that all outputs of an image are written."""
        if state is None:
            return
        # On a line of its own, even if a killed process left the start of one; and in one piece,
        # should another process write there too.
        line = "\n" + json.dumps([name, state])
        with self._list.open("ab", buffering=0) as file:
            file.write(line.encode())

    def _claim(self, wanted: Mapping[str, Any]) -> dict[str, Any]:
        """Writes model.json if there is none, and returns what it says."""
        path = self._folder / _MODEL
        if not path.exists():
            content = json.dumps(wanted, indent=1) + "\n"
            complete = self._folder / f".{secrets.token_hex(8)}"
            files.write(complete, content)
            try:
                # A link, not a renaming: of two hosts that start at once, only one is first.
                with contextlib.suppress(FileExistsError):
                    os.link(complete, path)
            except OSError:  # a file system without links
                os.replace(complete, path)
            finally:
                complete.unlink(missing_ok=True)
        try:
            found = json.loads(files.read_bytes(path))
            if isinstance(found, dict):
                return found
        except (OSError, ValueError):
            pass
        raise UserError(
            f"{files.shown(path)} cannot be read, so nobody knows which model predicted what is "
            "there; give another --output_dir, or remove that one."
        )

    def _read(self) -> dict[str, Any]:
        """Returns the state of each finished image by its name."""
        states: dict[str, Any] = {}
        for path in sorted(self._folder.glob("*.jsonl")):
            for line in files.read_bytes(path).splitlines():
                with contextlib.suppress(ValueError):  # a line that a killed process left
                    entry = json.loads(line)
                    if isinstance(entry, list) and len(entry) == 2 and isinstance(entry[0], str):
                        states[entry[0]] = entry[1]
        return states


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def digest_of(*paths: Path) -> str:
    """Returns one SHA-256 of the content of files."""
    digest = hashlib.sha256()
    for path in paths:
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()
