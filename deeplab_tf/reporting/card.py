"""Section of the page with the model card: what a model is, and what it was made for."""

import json
from collections.abc import Mapping, Sequence

from deeplab_tf.data.image_kinds import ImageKind
from deeplab_tf.evaluation.report import percent
from deeplab_tf.reporting import markup
from deeplab_tf.reporting.markup import Element


def section(
    card: Mapping, image_kind: ImageKind, title: str, others: Sequence[str], weights: int
) -> Element:
    """Returns the model card of a checkpoint.

    Args:
      card: as `serving.model_card.of_run` makes it for an export.
      image_kind: of the images that the model takes.
      title, others: which checkpoint it is, and which newer or better ones there are, as in
        `LoadedRun`.
      weights: number of the network's trainable weights.
    """
    training, dataset = card["training"], card["dataset"]
    names = [label_class["name"] for label_class in dataset["classes"]]
    stride = card["inference"].get("output_stride", training["output_stride"])
    facts = [
        ("task", "semantic segmentation: one class for each pixel"),
        ("checkpoint", title),
        *([("other checkpoints", "; ".join(others))] if others else []),
        (
            "network",
            f"{training['model_variant']}, output stride {stride}, {weights:,} trainable weights",
        ),
        _origin(training),
        ("input", f"images of any size, {image_kind.described()}"),
        (
            "output",
            f"the number of one of {len(names)} classes for each pixel, at the image's size",
        ),
        ("data set", dataset["name"]),
    ]
    scores = [
        (
            entry["file"],
            str(entry.get("split") or ""),
            percent(entry["miou"]),
            str(entry.get("images") or ""),
        )
        for entry in card["metrics"]
    ]
    text = json.dumps(card, indent=1, ensure_ascii=False)
    return markup.section(
        "card",
        "Model card",
        markup.table("Model", ("what", "value"), facts, texts=True),
        markup.table("Scores of this checkpoint", ("file", "split", "mIoU, %", "images"), scores)
        if scores
        else markup.missing(
            "The card lists no score of this checkpoint: it takes those that metrics.jsonl and the "
            "folders in the run's folder have, predicted with the same settings."
        ),
        markup.paragraph(
            "It knows these classes and no others: each pixel gets one of them, whatever the image "
            f"shows. {', '.join(names)}."
        ),
        # Without settings of its own, export_model writes this very card.
        markup.fold(
            "The whole card" + ("" if card["inference"] else ", as export_model writes it"),
            markup.preformatted(text),
        ),
    )


def _origin(training: Mapping[str, str]) -> tuple[str, str]:
    """Returns where the weights come from, as a line of the table."""
    if not training["train_logdir"]:
        return ("weights", "imported, not trained here")
    return ("trained from", training["tf_initial_checkpoint"] or "random weights")
