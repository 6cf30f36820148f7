"""What earlier calls of predict have finished in a folder, and with which model.

The folder `finished` next to the outputs holds model.json, which says what decides the outputs, and
one list for each shard, so that shards on several hosts can share the folder. When all outputs of
an image are written, the list gets a line with a digest of each. An image counts as finished while
its outputs have these digests. So it no longer counts if another image of the same name, or a
person, replaced an output. It does not matter in which list the line is, or what its host's clock
says.
"""

import contextlib
import hashlib
import json
import os
import secrets
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from deeplab_tf import files
from deeplab_tf.messages import UserError, shortened

FOLDER, _MODEL = "finished", "model.json"
_PIECE = 2**20  # bytes that are read at once


def is_written_to(folder: Path) -> bool:
    """Whether predict wrote to a folder."""
    return (folder / FOLDER / _MODEL).is_file()


class _Entry(NamedTuple):
    """A line of a list.

    image: its name in summaries. state: its `ImageSource.state`. outputs: their digests, by their
    paths in the folder. seconds: the time of writing, by the writer's clock.
    """

    image: str
    state: Any
    outputs: Mapping[str, str]
    seconds: float


class Finished:
    """The finished images of one folder."""

    def __init__(self, output_dir: Path, *, shard: str = ""):
        """Reads what was finished; writes nothing.

        Args:
          shard: K/N; this call writes that shard's list.
        """
        self._output_dir = output_dir
        self._folder = output_dir / FOLDER
        self._list = self._folder / f"{shard.replace('/', '-of-') or 'all'}.jsonl"
        self._entries: dict[str, list[_Entry]] = {}
        self._announced: dict[str, set[str]] = {}
        for path in sorted(self._folder.glob("*.jsonl")):
            for line in files.read_bytes(path).splitlines():
                with contextlib.suppress(ValueError, KeyError, TypeError, AttributeError):
                    self._take(json.loads(line))  # skips a line that a killed process cut off

    def claim(self, decides: Mapping[str, Any]) -> None:
        """Claims the folder for a model and its settings.

        A claim of a call that finished no image gives way to another one. Should that call still
        run, its next image stops it: see `require_claim`.

        Args:
          decides: what decides the outputs of an image: JSON values, by the names that users know.
        Raises:
          UserError: if the folder holds predictions that something else decided.
        """
        wanted = json.loads(json.dumps(decides))
        found = self._claimed(wanted)
        different = [key for key in {**wanted, **found} if wanted.get(key) != found.get(key)]
        if different and not self._entries:
            files.write(self._folder / _MODEL, _as_json(wanted))
        elif different:
            key = different[0]
            old, new = (shortened(_text(each.get(key)), most=80) for each in (found, wanted))
            raise UserError(
                f"--output_dir={files.shown(self._output_dir)} holds predictions with another "
                f"{key} ({old}; now {new}); give another folder, or remove that one."
            )

    def require_claim(self, decides: Mapping[str, Any]) -> None:
        """Raises UserError if another call has claimed the folder since this one did."""
        if self._read_claim() != json.loads(json.dumps(decides)):
            raise UserError(
                f"Another call of predict with another model or settings has just started to write "
                f"to --output_dir={files.shown(self._output_dir)}; give another folder."
            )

    def has(self, name: str, state: Any, outputs: Iterable[Path]) -> bool:
        """Whether an image was finished in this state with all `outputs`; never if it is None."""
        same = [each for each in self._entries.get(name, ()) if each.state == state]
        return (
            state is not None
            and bool(same)
            and all(
                _digest_of_file(path) in {each.outputs.get(self._key(path), "") for each in same}
                for path in outputs
            )
        )

    def images(self) -> Iterator[tuple[str, str]]:
        """Yields name and image of each entry whose index picture is still there, in name order."""
        for name, entries in sorted(self._entries.items()):
            index = f"index/{name}.png"
            digest = _digest_of_file(self._output_dir / index)
            fitting = [each for each in entries if digest and each.outputs.get(index) == digest]
            if fitting:
                yield name, max(fitting, key=lambda each: each.seconds).image

    def wrote(self, path: Path) -> bool:
        """Whether an announced file still holds what predict wrote there."""
        return _digest_of_file(path) in self._announced.get(self._key(path), set())

    def outdated(self, name: str, state: Any, outputs: Mapping[Path, str]) -> list[Path]:
        """Returns an image's files that new outputs leave behind, though they show it otherwise.

        Files that somebody changed since are not among them.

        Args:
          state: of the image now; if it is None, all earlier files count as outdated.
          outputs: the new outputs and their digests.
        """
        written: dict[Path, set[str | None]] = {}
        for entry in self._entries.get(name, ()):
            for key, digest in entry.outputs.items():
                written.setdefault(self._output_dir / key, set()).add(digest)
        return [
            path
            for path in sorted(written.keys() - outputs.keys())
            if _digest_of_file(path) in written[path] and not self.has(name, state, [path])
        ]

    def summaries(self) -> list[Path]:
        """Returns the files about all images that predict wrote and nobody changed."""
        paths = [self._output_dir / key for key in sorted(self._announced) if "/" not in key]
        return [path for path in paths if self.wrote(path)]

    def announce(self, path: Path, content: bytes | str) -> None:
        """Notes that predict is about to write a file that people may correct by hand."""
        digest = digest_of_content(content)
        self._append({"announced": {self._key(path): digest}})

    def note(self, name: str, state: Any, outputs: Mapping[Path, str], *, image: str) -> None:
        """Notes that all outputs of an image are written.

        Args:
          outputs: the digest of each output.
          image: the image's name in summaries.
        """
        digests = {self._key(path): digest for path, digest in outputs.items()}
        self._append(
            {
                "name": name,
                "image": image,
                "state": state,
                "outputs": digests,
                "seconds": time.time(),
            }
        )

    def _append(self, entry: dict[str, Any]) -> None:
        """Adds a line to this call's list."""
        self._take(json.loads(json.dumps(entry)))
        # It starts a new line, since a killed process may have left half a line, and is written in
        # one piece, since another process may write there too.
        line = "\n" + json.dumps(entry)
        with self._list.open("ab", buffering=0) as file:
            file.write(line.encode())

    def _take(self, entry: dict[str, Any]) -> None:
        if "announced" in entry:
            for key, digest in entry["announced"].items():
                self._announced.setdefault(key, set()).add(digest)
            return
        values = _Entry(
            entry["image"], entry["state"], dict(entry["outputs"]), float(entry["seconds"])
        )
        self._entries.setdefault(entry["name"], []).append(values)

    def _key(self, path: Path) -> str:
        return path.relative_to(self._output_dir).as_posix()

    def _claimed(self, wanted: Mapping[str, Any]) -> dict[str, Any]:
        """Writes model.json if there is none, and returns what it says."""
        path = self._folder / _MODEL
        if not path.exists():
            complete = self._folder / f".{secrets.token_hex(8)}"
            files.write(complete, _as_json(wanted))
            try:
                # A link, not a renaming: if two hosts start at once, only the first one succeeds.
                with contextlib.suppress(FileExistsError):
                    os.link(complete, path)
            except OSError:  # a file system without links
                os.replace(complete, path)
            finally:
                complete.unlink(missing_ok=True)
        return self._read_claim()

    def _read_claim(self) -> dict[str, Any]:
        path = self._folder / _MODEL
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


def _as_json(claim: Mapping[str, Any]) -> str:
    return json.dumps(claim, indent=1) + "\n"


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def digest_of(*paths: Path) -> str:
    """Returns one SHA-256 of the content of files."""
    digest = hashlib.sha256()
    for path in paths:
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def digest_of_content(content: bytes | str) -> str:
    """Returns the digest of a content in the lists; text counts as UTF-8, as it is written."""
    data = content.encode() if isinstance(content, str) else content
    return hashlib.sha256(data).hexdigest()[:32]


def digest_of_output(path: Path) -> str:
    """Returns the digest of a written file in the lists."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        for piece in iter(lambda: file.read(_PIECE), b""):
            digest.update(piece)
    return digest.hexdigest()[:32]


def _digest_of_file(path: Path) -> str | None:
    """Returns the digest of an output; None if it is not there."""
    try:
        return digest_of_output(path)
    except OSError:
        return None
