"""The scores of a run: metrics.jsonl, and best.json for people."""

import json
from pathlib import Path

from deeplab_tf import files
from deeplab_tf.messages import UserError

METRICS, BEST_FILE = "metrics.jsonl", "best.json"


class MetricsLog:
    """What training and validation recorded, one entry a line; making the object reads nothing."""

    def __init__(self, folder: Path):
        self.folder = folder

    def record(self, entry: dict) -> None:
        """Appends one line to metrics.jsonl."""
        with (self.folder / METRICS).open("a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")

    def entries(self) -> list[dict]:
        """Returns the lines of metrics.jsonl; leaves out a last one that a killed run cut off.

        Raises:
          UserError: if any other line is damaged: without it, another checkpoint could be the best.
        """
        path = self.folder / METRICS
        if not path.is_file():
            return []

        *lines, unfinished = path.read_bytes().split(b"\n")
        entries = []
        for number, line in enumerate(lines, 1):
            entry = _entry(line)
            if entry is None:
                raise UserError(
                    f"Line {number} of {path} is damaged; restore the file from a copy, or delete "
                    "that line: the run then forgets it."
                )
            entries.append(entry)

        last = _entry(unfinished)
        return entries + ([last] if last else [])

    def forget_after(self, step: int) -> None:
        """Removes what was recorded after `step`: a resumed run does these steps again."""
        entries = [entry for entry in self.entries() if entry["step"] <= step]
        files.write(self.folder / METRICS, "".join(json.dumps(e) + "\n" for e in entries))

    def scores_at(self, step: int) -> list[dict]:
        """Returns the validations of this step in metrics.jsonl."""
        return [e for e in self.entries() if e["step"] == step and "miou" in e]

    def best(self) -> dict:
        """Returns step, miou and split of the best validation; empty before the first one.

        Only scores of the split that was validated last are compared. If metrics.jsonl has no
        scores, as in a copy of only the checkpoints of a run, best.json is read instead.
        """
        scored = [entry for entry in self.entries() if entry.get("miou") is not None]
        if not scored:
            return self._noted_best()
        scored = [entry for entry in scored if entry.get("split") == scored[-1].get("split")]
        best = max(scored, key=lambda entry: (entry["miou"], -entry["step"]))
        return {"step": best["step"], "miou": best["miou"], "split": best.get("split")}

    def _noted_best(self) -> dict:
        """Reads best.json; empty if there is none or it is damaged."""
        path = self.folder / BEST_FILE
        noted = _entry(path.read_bytes()) if path.is_file() else None
        return noted if noted and isinstance(noted.get("miou"), float) else {}

    def note_best(self) -> None:
        """Writes best.json, in which people can read what `best` returns."""
        files.write(self.folder / BEST_FILE, json.dumps(self.best()) + "\n")


class FollowersMetricsLog(MetricsLog):
    """The same for workers other than the chief, which read it and write nothing to it."""

    def record(self, entry):
        pass

    def forget_after(self, step):
        pass

    def note_best(self):
        pass


def _entry(line: bytes) -> dict | None:
    """Parses a line of JSON, an object with a step; returns None if it is damaged."""
    try:
        entry = json.loads(line)
    except ValueError:  # the line is not JSON, or not even UTF-8
        return None
    return entry if isinstance(entry, dict) and isinstance(entry.get("step"), int) else None
