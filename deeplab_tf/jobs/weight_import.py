"""Imports weights that another program trained."""

from pathlib import Path

from deeplab_tf.config.programs import ImportConfig
from deeplab_tf.data.catalog import DatasetInfo
from deeplab_tf.messages import counted
from deeplab_tf.runs import importing
from deeplab_tf.weights.mapping import Source


def main(job: ImportConfig) -> None:
    """Writes the folder and prints what was loaded, what is new and what was not used."""
    imported = importing.import_weights(job)
    source, info, config = imported.source, imported.info, imported.source.config

    print(f"{job.source}: {source.kind}, {config.model_variant}")
    corners = "aligned" if config.align_corners else "not aligned"
    print(
        f"dilated for output stride {config.output_stride}, ASPP rates {config.atrous_rates}, "
        f"multi-grid {config.multi_grid or 'none'}, corners {corners}"
    )
    print(
        f"loaded: {counted(len(source.arrays), 'variable')}, {counted(info.num_classes, 'class')}"
    )
    print(f"class names: {_origin_of_names(job, info, source)}")
    print(f"converted: {len(source.converted)} of them, in layout, order or normalisation")
    if not imported.has_head:
        print("new: the whole head; the file holds only a backbone, so train before use")
    print(f"unused: {', '.join(source.unused) or 'none'}")
    print("missing: none")
    print(f"{Path(job.output)} is ready for eval, predict, export_model and train.")


def _origin_of_names(job: ImportConfig, info: DatasetInfo, source: Source) -> str:
    """Says where the names of the classes come from; few files of weights hold names."""
    if job.class_list:
        return f"from {job.class_list}"
    if job.dataset:
        return f"as in {info.name}"
    is_told = len(source.told.class_names) == info.num_classes
    if info.name in importing.DATASETS.values():
        reason = "guessed from their number" if source.num_classes else "since the file has none"
        if is_told:
            return f"as in {info.name}, and in the file"
        return f"as in {info.name}, {reason}; --class_list or --dataset gives others"
    if is_told:
        return "from the file; --class_list or --dataset gives others"
    return f"numbers ({info.class_names[0]} and so on); --class_list gives names"
