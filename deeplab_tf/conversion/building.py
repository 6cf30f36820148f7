"""What all builders in datasets/ share: settings, and writing shards and dataset.json.

Shards are written one after the other in a hidden folder, and move to the output folder when the
split is complete. An interrupted build keeps the shards that are complete, and the same command
goes on with the others.
"""

import contextlib
import functools
import hashlib
import itertools
import json
import os
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from deeplab_tf import __version__, files
from deeplab_tf.config import Config, require, require_given, setting
from deeplab_tf.conversion import encoding, split_members, split_report, workers
from deeplab_tf.conversion.encoding import BadFile, FilePair
from deeplab_tf.data import catalog
from deeplab_tf.data.examples import EncodedExample
from deeplab_tf.data.image_kinds import ImageKind
from deeplab_tf.files import warn_of_left_out
from deeplab_tf.messages import UserError, counted, warn

# Flags of the official builders that have no meaning where file names are fixed.
OFFICIAL_FORMATS = {
    "image_format": "records say what each image is, as its first bytes tell; leave it out.",
    "label_format": "labels are always stored as PNGs; leave it out.",
}


@dataclass(frozen=True, kw_only=True)
class BuilderConfig(Config):
    """Where the records go, and how they are made."""

    output_dir: str = setting("", "Folder for the shards and dataset.json.")
    num_shards: int = setting(
        16, "Shards of each split; fewer if there are fewer images.", least=1, most=99999
    )
    num_processes: int = setting(
        0,
        "Workers that decode and encode; 0 takes one per core, or only one if only headers are "
        "read.",
        least=0,
        most=4096,
    )
    verify: str = setting(
        "full",
        "full decodes and checks every image and mask; header reads only the sizes of files that "
        "need no change, and trusts their pixels.",
        choices=("full", "header"),
    )
    exif_orientation: str = setting(
        "apply",
        "apply turns images as their EXIF data say, unless only the unturned image has the size of "
        "its mask; ignore turns none.",
        choices=("apply", "ignore"),
    )
    skip_bad: bool = setting(
        False, "Whether to leave out and list files that cannot be converted, instead of stopping."
    )

    def __post_init__(self):
        super().__post_init__()
        require_given("output_dir", self.output_dir, "a path")


@dataclass(frozen=True, kw_only=True)
class DownloadConfig(BuilderConfig):
    """BuilderConfig for data sets that anybody may download."""

    download: bool = setting(False, "Whether to fetch, check and unpack missing archives.")
    download_mirror: str = setting(
        "", "Folder of another web server with the archives under the same file names."
    )

    def __post_init__(self):
        super().__post_init__()
        has_effect = self.download or not self.download_mirror
        require(has_effect, "download_mirror", self.download_mirror, "nothing without --download")


def require_splits(splits: Sequence[str], known: Sequence[str]) -> None:
    """Checks the value of --splits: names out of `known`.

    Raises:
      UserError: if a name is unknown or given twice, or there is none.
    """
    is_valid = bool(splits) and set(splits) <= set(known) and len(set(splits)) == len(splits)
    require(is_valid, "splits", tuple(splits), f"one or more of {', '.join(known)}, each once")


def read_list(path: Path, help: str) -> list[str]:
    """Returns the names in a list file with one name per line.

    Args:
      help: what the user can do if the file is missing.
    Raises:
      UserError: if the file is missing, is not text or is empty, or names an image twice.
    """
    if not path.is_file():
        raise UserError(f"{path} does not exist; {help}")
    names = []
    for number, name in files.read_lines(path, "The list"):
        if len(name.split()) > 1:
            raise UserError(f"Line {number} of {path} is {name!r}; only one name is allowed.")
        names.append(name)
    _require_distinct(names, str(path))
    return names


def _require_distinct(names: Sequence[str], origin: str) -> None:
    if not names:
        raise UserError(f"{origin} has no image; add some, or leave it out.")
    if len(set(names)) != len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise UserError(f"{origin} has {twice!r} twice; every image may occur only once.")


def list_images(folder: Path, suffix: str = "") -> list[tuple[str, Path]]:
    """Lists the images in a folder and its subfolders, and warns of what it leaves out.

    Args:
      suffix: the end of the wanted file names; empty takes all images.
    Returns:
      name (the path from `folder`, without ending) and path of each, in the order of the paths.
    """
    listing = files.list_folder(folder)
    wanted = [(name, path) for name, path in listing.images if path.name.endswith(suffix)]
    if others := len(listing.images) - len(wanted):
        listing.left_out[f"without {suffix}"] = others
    warn_of_left_out(folder, counted(len(wanted), "image"), listing)
    return wanted


def require_files(pairs: Iterable[FilePair], help: str) -> None:
    """Raises a UserError that names the first file that does not exist, if there is one."""
    for pair in pairs:
        for path in filter(None, (pair.image_path, pair.mask_path)):
            if not path.is_file():
                raise UserError(f"{path} does not exist; {help}")


def build(
    config: BuilderConfig,
    info: catalog.DatasetInfo,
    splits: dict[str, list[FilePair]],
    coding: encoding.MaskCoding,
) -> None:
    """Converts all splits; skips those already converted from the same files."""
    for split, pairs in splits.items():
        published = catalog.published_images(info, split)
        if published not in (None, len(pairs)):
            warn(f"{split} has {counted(len(pairs), 'image')}, the published set {published}.")

    encode = functools.partial(
        encoding.encode_pair,
        coding=coding,
        verify=config.verify,
        exif_orientation=config.exif_orientation,
    )
    if not info.image_kind.is_rgb:  # said only then, since it decides what is up to date
        encode = functools.partial(encode, image_kind=info.image_kind)
    convert_splits(
        splits,
        encode,
        output_dir=Path(config.output_dir),
        info=info,
        num_shards=config.num_shards,
        num_processes=config.num_processes,
        skip_bad=config.skip_bad,
    )


@dataclass(frozen=True)
class _Plan:
    """A split to build.

    parts: the files of each shard.
    sources: a hash of each shard's files and settings, which tells whether it is up to date.
    building: hidden folder for the shards until all are complete.
    """

    split: str
    parts: list[Sequence[FilePair]]
    sources: list[str]
    building: Path

    @property
    def source(self) -> str:
        return hashlib.sha256("".join(self.sources).encode()).hexdigest()


def convert_splits(
    splits: Mapping[str, Sequence[FilePair]],
    encode: functools.partial,
    *,
    output_dir: Path,
    info: catalog.DatasetInfo,
    num_shards: int,
    num_processes: int = 0,
    skip_bad: bool = False,
) -> None:
    """Converts files to splits on all cores, with a progress bar, and prints what they hold.

    Splits that are up to date are not converted again. The others appear together, once all of them
    are complete and pass the checks of `split_report`.

    Args:
      splits: the files of each split, in the order in which they are written.
      encode: turns a pair into an EncodedExample; its keywords are the settings that, together with
        the files, decide whether a shard is up to date.
      output_dir: created if necessary; other splits in it stay as they are.
      info: the data set's classes and published split sizes.
      num_shards: number of shards of each split; fewer if there are fewer images.
      num_processes: workers; 0 takes one per core, or only one if only headers are read: that work
        is done in Python, and more threads would slow it down.
      skip_bad: as in `workers.encode_all`.
    Raises:
      UserError: if a file cannot be converted or occurs twice, if dataset.json in output_dir
        describes other classes, or if `split_report` finds that the masks do not fit together.
    """
    coding = encode.keywords["coding"]
    if encode.keywords.get("verify") == "header" and not coding.index_map:
        num_processes = num_processes or 1

    plans = [_plan(split, pairs, encode, output_dir, num_shards) for split, pairs in splits.items()]
    encode_all = functools.partial(
        workers.encode_all, encode=encode, num_processes=num_processes, skip_bad=skip_bad
    )

    busy = f"Another builder is writing to {output_dir}; wait until it has ended."
    with files.sole_writer(output_dir, busy=busy):
        manifest = open_manifest(output_dir, info)
        entries = manifest["splits"]
        todo = [
            plan
            for plan in plans
            if not _is_up_to_date(plan, output_dir, entries.get(plan.split, {}), skip_bad)
        ]
        for plan in todo:
            _write_shards(plan, encode_all, skip_bad, info)
        settings = {"mask_settings": hashlib.sha256(repr(coding).encode()).hexdigest()}
        new_entries = {plan.split: _entry(plan, info) | settings for plan in todo}

        # Only now are all masks known. If they do not fit together, nothing is kept.
        try:
            split_report.require_one_palette(info, new_entries)
            split_report.require_a_second_class(info, entries | new_entries, coding)
            split_report.require_one_second_class(info, entries | new_entries, coding)
        except UserError:
            for plan in todo:
                shutil.rmtree(plan.building)
            raise

        for plan in todo:
            _publish(plan, new_entries[plan.split], output_dir, manifest)

    for plan in plans:
        entry = manifest["splits"][plan.split]
        _print_split(plan.split, "" if plan in todo else " is up to date", entry, output_dir)
    built = {plan.split: manifest["splits"][plan.split] for plan in plans}
    kept = {split: entry for split, entry in manifest["splits"].items() if split not in built}
    _print_kept(kept, settings["mask_settings"], output_dir)
    for plan in plans:
        split_members.warn_of_images_built_earlier(
            plan.split, list(itertools.chain(*plan.parts)), built[plan.split], kept
        )
    split_report.print_report(info, built, coding)


def _print_split(split: str, state: str, entry: dict, output_dir: Path) -> None:
    print(f"{output_dir}: split {split}{state}, {counted(entry['images'], 'image')}.")
    for bad in entry.get("skipped", []):
        print(f"  skipped {bad['name']}: {bad['reason']}")


def _print_kept(kept: Mapping[str, dict], mask_settings: str, output_dir: Path) -> None:
    """Names the splits that earlier calls built; warns of those with other settings for masks."""
    for split, entry in kept.items():
        _print_split(split, " stays as an earlier call built it", entry, output_dir)
        if entry.get("mask_settings", mask_settings) != mask_settings:
            warn(
                f"the split {split!r} was built with other settings for masks, so its labels may "
                "mean something else; build all splits in one call, or into two folders."
            )


def convert_split(
    pairs: Sequence[FilePair], encode: functools.partial, *, split: str, **settings
) -> None:
    """Converts files to one split; the settings are as in `convert_splits`."""
    convert_splits({split: pairs}, encode, **settings)


def _plan(
    split: str,
    pairs: Sequence[FilePair],
    encode: functools.partial,
    output_dir: Path,
    num_shards: int,
) -> _Plan:
    """Divides the files of a split into shards of nearly equal size, none of them empty."""
    _require_distinct([pair.name for pair in pairs], f"The split {split!r}")

    num_shards = min(num_shards, len(pairs))
    bounds = [len(pairs) * shard // num_shards for shard in range(num_shards + 1)]
    parts = [pairs[first:last] for first, last in itertools.pairwise(bounds)]
    sources = [encoding.fingerprint(part, sorted(encode.keywords.items())) for part in parts]
    return _Plan(split, parts, sources, output_dir / f".{split}-building")


def _write_shards(
    plan: _Plan, encode_all: Callable, skip_bad: bool, info: catalog.DatasetInfo
) -> None:
    """Writes the shards of a split, except those that an interrupted call has finished."""
    parts, building = plan.parts, plan.building
    todo = [i for i in range(len(parts)) if not _is_finished(plan, i, skip_bad)]
    remaining = [pair for shard in todo for pair in parts[shard]]
    total = sum(map(len, parts))
    if len(todo) < len(parts):
        print(f"{plan.split}: {len(parts) - len(todo)} of {len(parts)} shards are done already.")

    building.mkdir(parents=True, exist_ok=True)
    outcomes = encode_all(remaining)
    progress = {"initial": total - len(remaining), "total": total, "desc": plan.split}
    try:
        with (
            contextlib.closing(outcomes),
            tqdm(outcomes, **progress, unit=" images", disable=None) as bar,
        ):
            stream = iter(bar)
            for shard in todo:
                of_shard = itertools.islice(stream, len(parts[shard]))
                _write_shard(plan, shard, of_shard, info)
    finally:
        _remove_empty(building)  # it stays if it holds finished shards to go on from


def _write_shard(
    plan: _Plan, shard: int, outcomes: Iterable[EncodedExample | BadFile], info: catalog.DatasetInfo
) -> None:
    """Writes one shard, then its journal, by which a later call knows that it is finished."""
    from deeplab_tf.data import records  # imports TensorFlow, so only when there is work to do

    finished, partial = plan.building / f"{shard:05d}", plan.building / f"{shard:05d}.part"
    digests, image_digests, skipped, unlabelled = [], "", [], 0
    facts = split_report.SplitFacts.none(info)
    try:
        with records.shard_writer(partial) as writer:
            for outcome in outcomes:
                if isinstance(outcome, BadFile):
                    skipped.append(outcome.to_json())
                else:
                    writer.write(records.serialize(outcome))
                    digests.append(outcome.source.hex())
                    image_digests += split_members.image_digest(outcome)
                    unlabelled += not outcome.label
                    facts.add(outcome, info)
        os.replace(partial, finished)
    finally:
        partial.unlink(missing_ok=True)

    state = {
        "source": plan.sources[shard],
        "bytes": finished.stat().st_size,
        "digests": digests,
        "image_digests": image_digests,
        "skipped": skipped,
        "unlabelled": unlabelled,
        "facts": facts.to_json(info),
    }
    files.write(_journal(plan.building, shard), json.dumps(state))


def _remove_empty(folder: Path) -> None:
    with contextlib.suppress(OSError):  # raised if the folder holds something
        folder.rmdir()


def _journal(building: Path, shard: int) -> Path:
    return building / f"{shard:05d}.json"


def _is_finished(plan: _Plan, shard: int, skip_bad: bool) -> bool:
    """Whether an earlier call finished a shard, from the same files with the same settings."""
    try:
        state = json.loads(_journal(plan.building, shard).read_text())
        size = (plan.building / f"{shard:05d}").stat().st_size
        is_same = (state["source"], state["bytes"]) == (plan.sources[shard], size)
        return is_same and _stay_skipped(state["skipped"], plan.parts[shard], skip_bad)
    except (OSError, ValueError, KeyError):
        return False


def _stay_skipped(skipped: Sequence[dict], pairs: Iterable[FilePair], skip_bad: bool) -> bool:
    """Whether images that an earlier call skipped would be skipped again.

    Damaged files would, as long as they do not change. But a network file system may have failed to
    read a file and then recover, which neither its size nor its time would show.

    Args:
      pairs: the images that were asked for.
      skip_bad: whether any image may be skipped.
    """
    unread = {bad["name"] for bad in skipped if bad.get("unread")}
    is_readable_now = any(pair.name in unread and _can_be_read(pair) for pair in pairs)
    return (skip_bad or not skipped) and not is_readable_now


def _can_be_read(pair: FilePair) -> bool:
    try:
        for path in filter(None, (pair.image_path, pair.mask_path)):
            files.read_bytes(path)
    except OSError:
        return False
    return True


def _entry(plan: _Plan, info: catalog.DatasetInfo) -> dict:
    """Returns the entry in dataset.json for a split whose shards are finished.

    Raises:
      UserError: if they hold no image.
    """
    num_shards = len(plan.parts)
    states = [json.loads(_journal(plan.building, i).read_text()) for i in range(num_shards)]
    digests = [digest for state in states for digest in state["digests"]]
    if not digests:
        shutil.rmtree(plan.building)
        raise UserError(
            f"No image of the split {plan.split!r} could be converted; nothing was written."
        )

    facts = split_report.SplitFacts.none(info)
    for state in states:
        facts.merge(split_report.SplitFacts.from_json(state["facts"]))
    shards = [
        {
            "file": f"{plan.split}-{shard:05d}-of-{num_shards:05d}.tfrecord",
            "images": len(state["digests"]),
            "bytes": state["bytes"],
        }
        for shard, state in enumerate(states)
    ]
    entry = {
        "images": len(digests),
        "published_images": catalog.published_images(info, plan.split),
        "labelled": not any(state["unlabelled"] for state in states),
        "builder": f"{info.builder} {__version__}",
        "source": plan.source,
        "sha256": hashlib.sha256("".join(digests).encode()).hexdigest(),
        **facts.to_json(info),
        "skipped": [bad for state in states for bad in state["skipped"]],
        "shards": shards,
    }
    # Splits of public data sets may share images: VOC's trainval and trainaug do.
    if info.builder == "build_folder_data":
        entry["image_digests"] = "".join(state["image_digests"] for state in states)
    return entry


def _publish(plan: _Plan, entry: dict, output_dir: Path, manifest: dict) -> None:
    """Moves a split's finished shards to the output folder and lists them in dataset.json."""
    for shard, listed in enumerate(entry["shards"]):
        os.replace(plan.building / f"{shard:05d}", output_dir / listed["file"])
    replaced = manifest["splits"].get(plan.split, {}).get("shards", [])
    manifest["splits"][plan.split] = entry
    write_manifest(output_dir, manifest)
    shutil.rmtree(plan.building)

    # Shards of an earlier build may have other names, if their number has changed.
    names = {shard["file"] for shard in entry["shards"]}
    for name in {shard["file"] for shard in replaced} - names:
        _listed(output_dir, name).unlink(missing_ok=True)


def _is_up_to_date(plan: _Plan, output_dir: Path, entry: dict, skip_bad: bool) -> bool:
    """Whether dataset.json lists a split made of the same files, and its shards are there.

    Args:
      skip_bad: whether the split may lack images that were skipped.
    """
    pairs = itertools.chain(*plan.parts)
    if entry.get("source") != plan.source:
        return False
    if not _stay_skipped(entry.get("skipped", ()), pairs, skip_bad):
        return False
    paths = [(_listed(output_dir, shard["file"]), shard["bytes"]) for shard in entry["shards"]]
    return all(path.is_file() and path.stat().st_size == size for path, size in paths)


def _listed(output_dir: Path, name: str) -> Path:
    """Returns the path of a shard that dataset.json lists, whoever wrote that."""
    advice = f"remove {output_dir / catalog.MANIFEST} and build the data set again"
    return files.path_below(output_dir, name, advice=advice)


def open_manifest(output_dir: Path, info: catalog.DatasetInfo) -> dict:
    """Returns the content of dataset.json in a builder's output folder, or a new one.

    Raises:
      UserError: if it describes other classes.
    """
    if not (output_dir / catalog.MANIFEST).is_file():
        return info.to_json() | {"splits": {}}
    manifest = catalog.read_manifest(output_dir)
    if "splits" not in manifest:
        raise UserError(
            f"--output_dir={output_dir} is the folder of a run; give records a folder of their own."
        )
    kind = ImageKind.from_json(manifest)
    if kind != info.image_kind:
        raise UserError(
            f"{output_dir} already holds the data set {manifest.get('name')!r}, whose images have "
            f"{kind.described()}, not {info.image_kind.described()}; give {kind.flags()}, choose "
            "another --output_dir or remove it."
        )
    if {key: manifest.get(key) for key in info.to_json()} != info.to_json():
        raise UserError(
            f"{output_dir} already holds the data set {manifest['name']!r}, "
            f"{_difference(catalog.from_json(manifest, output_dir / catalog.MANIFEST), info)}"
            "choose another --output_dir or remove it."
        )
    return manifest


def _difference(held: catalog.DatasetInfo, info: catalog.DatasetInfo) -> str:
    """Returns how two data sets differ, with the end of the sentence that depends on it."""
    if difference := catalog.first_difference(held, info):
        return f"whose classes differ: {difference}; "
    if held.classes != info.classes:
        one, other = next(
            pair for pair in zip(held.classes, info.classes, strict=True) if pair[0] != pair[1]
        )
        return f"where {one.name!r} is {_described(one)}, not {_described(other)}; "
    # By default, the name is the folder's, which may have been renamed.
    keep = f"give --dataset={held.name}, " if info.builder == "build_folder_data" else ""
    return f"whose name is not {info.name!r}; {keep}"


def _described(label_class: catalog.LabelClass) -> str:
    ids = f" with the label_id {';'.join(map(str, label_class.label_ids))}"
    color = ",".join(map(str, label_class.color))
    return f"the colour {color}{ids if label_class.label_ids else ''}"


def write_manifest(output_dir: Path, manifest: dict) -> None:
    """Replaces <output_dir>/dataset.json in one step."""
    files.write(output_dir / catalog.MANIFEST, json.dumps(manifest, indent=1) + "\n")
