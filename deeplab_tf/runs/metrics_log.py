"""The scores of a run: metrics.jsonl, and best.json for people."""

import math
from pathlib import Path

from deeplab_tf import files
from deeplab_tf.messages import UserError
from deeplab_tf.runs import sealed

METRICS, BEST_FILE = "metrics.jsonl", "best.json"


class MetricsLog:
    """What training and validation recorded, one entry a line; making the object reads nothing."""

    def __init__(self, folder: Path):
        self.folder = folder

    def record(self, entry: dict) -> None:
        """Appends one line to metrics.jsonl.

        Raises:
          UserError: if it cannot be written.
        """
        path = self.folder / METRICS
        try:
            with path.open("a", encoding="utf-8") as file:
                file.write(sealed.to_json(entry) + "\n")
        except OSError as error:
            raise UserError(
                f"Step {entry['step']} could not be written to {path} ({error.strerror}); mend "
                "that, then start the same command again: it continues from the newest checkpoint."
            ) from None

    def entries(self) -> list[dict]:
        """Returns the lines of metrics.jsonl.

        Leaves out a last line that a killed run cut off, and a line that stands there twice, as
        after a copy that was joined to its original: nothing is measured twice in a step.

        Raises:
          UserError: if any other line is damaged: without it, another checkpoint could be the best.
        """
        path = self.folder / METRICS
        if not path.is_file():
            return []

        *lines, unfinished = path.read_bytes().split(b"\n")
        entries = {}
        for number, line in enumerate(lines, 1):
            entry = _entry(line)
            if entry is None:
                raise UserError(
                    f"Line {number} of {path} is damaged; restore the file from a copy, or delete "
                    "that line: the run then forgets it."
                )
            entries[line] = entry

        last = _entry(unfinished)
        if last:
            entries[unfinished] = last
        return list(entries.values())

    def forget_after(self, step: int) -> None:
        """Removes what was recorded after `step`: a resumed run does these steps again."""
        entries = [entry for entry in self.entries() if entry["step"] <= step]
        # This comes first: `best` can still find the best score in the lines if we are killed now.
        if self._noted_best().get("step", 0) > step:
            (self.folder / BEST_FILE).unlink()
        lines = "".join(sealed.to_json(entry) + "\n" for entry in entries)
        files.write(self.folder / METRICS, lines)
        self.note_best()  # the run may have been killed after a score, before it was noted

    def scores_at(self, step: int) -> list[dict]:
        """Returns the validations of this step in metrics.jsonl."""
        return [e for e in self.entries() if e["step"] == step and "miou" in e]

    def best(self, *, like: dict | None = None) -> dict:
        """Returns step, miou and split of the best validation; empty before the first one.

        Only scores that are comparable with the last one, or with `like`, count: of the same
        records, predicted in the same way. What best.json says counts too, since metrics.jsonl may
        have lost lines or be missing, as in a copy that holds only a run's checkpoints.

        Raises:
          UserError: if either file is damaged.
        """
        scored = self._scored(like)
        if not scored:
            return {}
        best = max(scored, key=_rank)
        return {"step": best["step"], "miou": best["miou"], "split": best.get("split")}

    def without_improvement(self, min_delta: float) -> int:
        """Returns how many of the latest validations in sequence did not improve the mean IoU.

        As in Keras' EarlyStopping, a score is an improvement if it exceeds the last one that was
        an improvement by more than `min_delta`. The same scores count as in `best`.
        """
        reference, waited = -math.inf, 0
        for entry in self._scored():
            is_better = entry["miou"] > reference + min_delta
            reference = entry["miou"] if is_better else reference
            waited = 0 if is_better else waited + 1
        return waited

    def _scored(self, like: dict | None = None) -> list[dict]:
        """Returns the validations that count for `best`, in the order of their steps."""
        ordered = self._validations()
        if not ordered:
            return []
        like = like or ordered[-1]
        return [entry for entry in ordered if _is_comparable(entry, like)]

    def _validations(self) -> list[dict]:
        """Returns all validations that have a score, in the order of their steps."""
        scored = {entry["step"]: entry for entry in self.entries() if entry.get("miou") is not None}
        ordered = [scored[step] for step in sorted(scored)]
        noted = self._noted_best()
        if noted and noted["step"] not in scored:
            ordered.insert(0, noted)
        return ordered

    def steps_to_keep(self) -> set[int]:
        """Returns the steps whose checkpoints are the best according to either file.

        Of validations that are not compared, such as those before and after a change of
        --eval_scales, each kind has a best one.
        """
        bests: list[dict] = []
        for entry in sorted(self._validations(), key=_rank, reverse=True):
            if not any(_is_comparable(entry, better) for better in bests):
                bests.append(entry)
        return {best["step"] for best in (*bests, self.best(), self._noted_best()) if best}

    def _noted_best(self) -> dict:
        """Reads best.json; empty if there is none, or it was written before the first score."""
        path = self.folder / BEST_FILE
        content = path.read_bytes() if path.is_file() else b"{}"
        if content.strip() == b"{}":
            return {}
        noted = _entry(content)
        if not noted or noted.get("miou") is None:
            raise UserError(
                f"{path} is damaged; delete it: the best checkpoint then follows from {METRICS}."
            )
        return noted

    def note_best(self) -> None:
        """Writes what `best` returns to best.json, for people."""
        best = self.best()
        if best:
            files.write(self.folder / BEST_FILE, sealed.to_json(best) + "\n")


class FollowersMetricsLog(MetricsLog):
    """The same for workers other than the chief, which read it and write nothing to it."""

    def record(self, entry):
        pass

    def forget_after(self, step):
        pass

    def note_best(self):
        pass


def _rank(entry: dict) -> tuple[float, int]:
    """Returns what orders scores: of equal ones, the earlier is the better."""
    return entry["miou"], -entry["step"]


def _is_comparable(entry: dict, other: dict) -> bool:
    """Whether two scores are of the same pixels, predicted in the same way.

    Earlier versions did not note how; such an entry counts as comparable.
    """
    if entry.get("split") != other.get("split"):
        return False
    return all(
        entry[key] == other[key]
        for key in ("pixels_per_class", "inference")
        if key in entry and key in other
    )


def _entry(line: bytes) -> dict | None:
    """Parses a line with a step and perhaps a score; returns None if it is damaged."""
    entry = sealed.from_json(line)
    if entry is None or type(entry.get("step")) is not int or entry["step"] < 0:
        return None
    miou = entry.get("miou")
    is_number = isinstance(miou, int | float) and not isinstance(miou, bool)
    return entry if miou is None or (is_number and math.isfinite(miou)) else None
