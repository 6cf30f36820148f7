"""What all builders in datasets/ share: their settings, and files -> shards and dataset.json.

Shards are written one after the other in a hidden folder and appear in the output folder when
the whole split is there. A build that was interrupted keeps its whole shards, and the same
command goes on with the others.
"""

import contextlib
import fcntl
import functools
import hashlib
import itertools
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from deeplab_tf import __version__, files
from deeplab_tf.config import Config, UserError, require, setting
from deeplab_tf.data import catalog, conversion, workers
from deeplab_tf.data.conversion import BadFile, EncodedExample, FilePair


@dataclass(frozen=True, kw_only=True)
class BuilderConfig(Config):
    """Where the records go, and how they are made."""

    output_dir: str = setting("", "Folder for the shards and dataset.json.")
    num_shards: int = setting(16, "Shards of each split; fewer if there are fewer images.", least=1)
    num_processes: int = setting(
        0,
        "Workers that decode and encode; 0 takes all cores, or one to read headers alone.",
        least=0,
    )
    verify: str = setting(
        "full",
        "full decodes and checks every image and mask; header trusts files that need no change and "
        "reads only their sizes.",
        choices=("full", "header"),
    )
    skip_bad: bool = setting(
        False, "Whether files that can not be converted are left out and listed, not fatal."
    )

    def __post_init__(self):
        super().__post_init__()
        require(bool(self.output_dir), "output_dir", "(empty)", "a path")


@dataclass(frozen=True, kw_only=True)
class DownloadConfig(BuilderConfig):
    """As BuilderConfig, for data sets whose licence lets everybody fetch them."""

    download: bool = setting(
        False, "Whether archives that are not there are fetched, checked and unpacked."
    )
    download_mirror: str = setting(
        "", "Folder of another web server that has the archives under their own file names."
    )


def require_splits(splits: str, known: Sequence[str]) -> None:
    """Checks the value of --splits: names of `known` joined by commas.

    Raises:
      UserError: if a name is unknown or there twice.
    """
    names = splits.split(",")
    proper = set(names) <= set(known) and len(set(names)) == len(names)
    require(proper, "splits", splits, f"different ones of {', '.join(known)}, joined by commas")


def read_list(path: Path, help: str) -> list[str]:
    """Returns the names in a list file, one a line.

    Args:
      help: what the error says when the file is missing.
    Raises:
      UserError: if the file is missing, no text or empty, or names an image twice.
    """
    if not path.is_file():
        raise UserError(f"{path} does not exist; {help}")
    names = []
    for number, name in files.read_lines(path, "The list"):
        if len(name.split()) > 1:
            raise UserError(f"Line {number} of {path} is {name!r}; allowed is one name a line.")
        names.append(name)
    _require_distinct(names, str(path))
    return names


def _require_distinct(names: Sequence[str], origin: str) -> None:
    if not names:
        raise UserError(f"{origin} has no image; give it some, or leave it out.")
    if len(set(names)) != len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise UserError(f"{origin} has {twice!r} twice; every image may occur once.")


def require_files(pairs: Iterable[FilePair], help: str) -> None:
    """Raises UserError naming the first file of the pairs that does not exist."""
    for pair in pairs:
        for path in filter(None, (pair.image_path, pair.mask_path)):
            if not path.is_file():
                raise UserError(f"{path} does not exist; {help}")


def build(
    config: BuilderConfig,
    info: catalog.DatasetInfo,
    splits: dict[str, list[FilePair]],
    coding: conversion.MaskCoding,
) -> None:
    """Converts all splits; those already converted from the same files are left alone."""
    encode = functools.partial(conversion.encode_pair, coding=coding, verify=config.verify)
    for split, pairs in splits.items():
        published = info.splits.get(split)
        if published not in (None, len(pairs)):
            print(f"Note: {split} has {len(pairs)} images, the published set {published}.")
        convert_split(
            pairs,
            encode,
            output_dir=Path(config.output_dir),
            info=info,
            split=split,
            num_shards=config.num_shards,
            num_processes=config.num_processes,
            skip_bad=config.skip_bad,
        )


def convert_split(
    pairs: Sequence[FilePair],
    encode: functools.partial,
    *,
    output_dir: Path,
    info: catalog.DatasetInfo,
    split: str,
    num_shards: int,
    num_processes: int = 0,
    skip_bad: bool = False,
) -> None:
    """Converts files to one split on all cores, with a progress bar; does nothing if it is there.

    Args:
      pairs: the files, in the order in which they are written.
      encode: turns a pair into an EncodedExample; its keywords are the settings that, with the
        files, decide whether a shard is up to date.
      output_dir: created if need be; other splits in it stay as they are.
      info: the data set's classes and published split sizes.
      num_shards: wanted number of shards; fewer when there are fewer images.
      num_processes: workers; 0 takes one for each core, or one where headers alone are read: that
        is Python's own work, which threads only hold up.
      skip_bad: as in `workers.encode_all`.
    Raises:
      UserError: naming the file that can not be converted, or that is there twice; or if
        dataset.json in output_dir describes other classes.
    """
    _require_distinct([pair.name for pair in pairs], f"The split {split!r}")
    coding = encode.keywords["coding"]
    if encode.keywords.get("verify") == "header" and not coding.index_map:
        num_processes = num_processes or 1
    num_shards = min(num_shards, len(pairs))
    bounds = [len(pairs) * shard // num_shards for shard in range(num_shards + 1)]
    parts = [pairs[first:last] for first, last in itertools.pairwise(bounds)]
    sources = [conversion.fingerprint(part, sorted(encode.keywords.items())) for part in parts]
    source = hashlib.sha256("".join(sources).encode()).hexdigest()
    with _sole_builder(output_dir):
        manifest = open_manifest(output_dir, info)
        entry = manifest["splits"].get(split, {})
        if entry.get("source") == source and _is_whole(output_dir, entry, skip_bad):
            print(f"{output_dir}: split {split} is up to date ({_summary(entry)}).")
            return
        building = output_dir / f".{split}-building"
        encode_left = functools.partial(
            workers.encode_all, encode=encode, num_processes=num_processes, skip_bad=skip_bad
        )
        _write_shards(building, parts, sources, encode_left, split, skip_bad)
        entry = _publish(building, output_dir, info, manifest, split, num_shards, source)
        print(f"{output_dir}: split {split}, {_summary(entry)}.")


@contextlib.contextmanager
def _sole_builder(output_dir: Path) -> Iterator[None]:
    """Creates the folder and keeps other builders out of it; removes it if it stays empty."""
    output_dir.mkdir(parents=True, exist_ok=True)
    folder = os.open(output_dir, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)  # ends with the process, however it ends
        yield
    except BlockingIOError:
        raise UserError(f"Another builder is writing to {output_dir}; wait for its end.") from None
    finally:
        os.close(folder)
        _remove_empty(output_dir)


def _write_shards(
    building: Path,
    parts: Sequence[Sequence[FilePair]],
    sources: Sequence[str],
    encode_left: Callable,
    split: str,
    skip_bad: bool,
) -> None:
    """Writes the shards that an earlier, interrupted call did not finish."""
    todo = [i for i in range(len(parts)) if not _finished(building, i, sources[i], skip_bad)]
    left = [pair for shard in todo for pair in parts[shard]]
    total = sum(map(len, parts))
    if len(todo) < len(parts):
        print(f"{split}: {len(parts) - len(todo)} of {len(parts)} shards are done already.")
    building.mkdir(parents=True, exist_ok=True)
    outcomes = encode_left(left)
    progress = {"initial": total - len(left), "total": total, "desc": split, "unit": " images"}
    try:
        with contextlib.closing(outcomes), tqdm(outcomes, **progress, disable=None) as bar:
            stream = iter(bar)
            for shard in todo:
                some = itertools.islice(stream, len(parts[shard]))
                _write_shard(building, shard, some, sources[shard])
    finally:
        _remove_empty(building)  # unless it holds whole shards, to go on from


def _write_shard(
    building: Path, shard: int, outcomes: Iterable[EncodedExample | BadFile], source: str
) -> None:
    from deeplab_tf.data import records  # imports TensorFlow: after everything that may be wrong

    whole, partial = building / f"{shard:05d}", building / f"{shard:05d}.part"
    digests, skipped, unlabelled = [], [], 0
    try:
        with records.shard_writer(partial) as writer:
            for outcome in outcomes:
                if isinstance(outcome, BadFile):
                    skipped.append({"name": outcome.name, "reason": outcome.reason})
                else:
                    writer.write(records.serialize(outcome))
                    digests.append(outcome.source.hex())
                    unlabelled += not outcome.label
        os.replace(partial, whole)
    finally:
        partial.unlink(missing_ok=True)
    state = {
        "source": source,
        "bytes": whole.stat().st_size,
        "digests": digests,
        "skipped": skipped,
        "unlabelled": unlabelled,
    }
    _journal(building, shard).write_text(json.dumps(state))


def _remove_empty(folder: Path) -> None:
    with contextlib.suppress(OSError):  # a folder that holds something stays
        folder.rmdir()


def _journal(building: Path, shard: int) -> Path:
    return building / f"{shard:05d}.json"


def _finished(building: Path, shard: int, source: str, skip_bad: bool) -> bool:
    try:
        state = json.loads(_journal(building, shard).read_text())
        size = (building / f"{shard:05d}").stat().st_size
        same = (state["source"], state["bytes"]) == (source, size)
        return same and (skip_bad or not state["skipped"])
    except (OSError, ValueError, KeyError):
        return False


def _publish(
    building: Path,
    output_dir: Path,
    info: catalog.DatasetInfo,
    manifest: dict,
    split: str,
    num_shards: int,
    source: str,
) -> dict:
    """Moves the finished shards to their names and lists them in dataset.json."""
    states = [json.loads(_journal(building, shard).read_text()) for shard in range(num_shards)]
    digests = [digest for state in states for digest in state["digests"]]
    if not digests:
        shutil.rmtree(building)
        raise UserError(f"No image of the split {split!r} could be converted; nothing was written.")
    shards = []
    for shard, state in enumerate(states):
        name = f"{split}-{shard:05d}-of-{num_shards:05d}.tfrecord"
        os.replace(building / f"{shard:05d}", output_dir / name)
        count = len(state["digests"])
        shards.append({"file": name, "images": count, "bytes": state["bytes"]})
    entry = {
        "images": len(digests),
        "published_images": info.splits.get(split),
        "labelled": not any(state["unlabelled"] for state in states),
        "builder": f"{info.builder} {__version__}",
        "source": source,
        "sha256": hashlib.sha256("".join(digests).encode()).hexdigest(),
        "skipped": [bad for state in states for bad in state["skipped"]],
        "shards": shards,
    }
    replaced = manifest["splits"].get(split, {}).get("shards", [])
    manifest["splits"][split] = entry
    write_manifest(output_dir, manifest)
    shutil.rmtree(building)
    for name in {shard["file"] for shard in replaced} - {shard["file"] for shard in shards}:
        (output_dir / name).unlink(missing_ok=True)
    return entry


def _summary(entry: dict) -> str:
    lines = [f"{entry['images']} images"]
    lines += [f"skipped {bad['name']}: {bad['reason']}" for bad in entry.get("skipped", [])]
    return "\n  ".join(lines)


def _is_whole(output_dir: Path, entry: dict, skip_bad: bool) -> bool:
    if entry["skipped"] and not skip_bad:
        return False
    paths = [(output_dir / shard["file"], shard["bytes"]) for shard in entry["shards"]]
    return all(path.is_file() and path.stat().st_size == size for path, size in paths)


def open_manifest(output_dir: Path, info: catalog.DatasetInfo) -> dict:
    """Returns the content of dataset.json in a builder's output folder, or of a new one.

    Raises:
      UserError: if it describes other classes.
    """
    if not (output_dir / catalog.MANIFEST).is_file():
        return info.to_json() | {"splits": {}}
    manifest = catalog.read_manifest(output_dir)
    if "splits" not in manifest:
        raise UserError(
            f"--output_dir={output_dir} is the folder of a run; records need their own."
        )
    if {key: manifest.get(key) for key in info.to_json()} != info.to_json():
        raise UserError(
            f"{output_dir} already holds the data set {manifest.get('name')!r} with other classes; "
            "choose another --output_dir or remove it."
        )
    return manifest


def write_manifest(output_dir: Path, manifest: dict) -> None:
    """Replaces <output_dir>/dataset.json in one step."""
    path = output_dir / catalog.MANIFEST
    temporary = path.with_suffix(".json.tmp")
    temporary.write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
    os.replace(temporary, path)
