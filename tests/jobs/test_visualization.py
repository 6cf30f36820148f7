import dataclasses

import numpy as np
from PIL import Image

from datasets import build_cityscapes_data
from deeplab_tf.config.programs import VisConfig
from deeplab_tf.jobs import visualization
from deeplab_tf.training.trainer import Trainer
from tests import trees


def test_predictions_for_a_benchmark_server_hold_label_ids(tiny_experiment, tmp_path):
    """Cityscapes: train ids 0..18 go back to 7, 8, 11, ..., 33, for a split without labels."""
    trees.cityscapes(tmp_path)
    build_cityscapes_data.main(
        build_cityscapes_data.CityscapesConfig(
            cityscapes_root=str(tmp_path), output_dir=str(tmp_path / "out"), num_processes=1
        )
    )
    data = dataclasses.replace(
        tiny_experiment.data, dataset_dir=str(tmp_path / "out"), train_split="train_fine"
    )
    trainer = Trainer(dataclasses.replace(tiny_experiment, data=data))
    trainer.run_dir.checkpoints.save(trainer.checkpoint, 0, keep=1)  # ids need no trained model
    for raw_label_ids in (False, True):
        visualization.main(
            VisConfig(
                checkpoint_dir=tiny_experiment.train.train_logdir,
                vis_logdir=str(tmp_path / f"vis{raw_label_ids:d}"),
                vis_split="test_fine",
                also_save_raw_predictions=True,
                raw_label_ids=raw_label_ids,
            )
        )
    painted = {path.name for path in (tmp_path / "vis0/segmentation_results").iterdir()}
    names = ("berlin_000000_000019", "berlin_000002_000019")
    kinds = ("image", "prediction", "overlay")
    assert painted == {f"{name}_{kind}.png" for name in names for kind in kinds}
    label_ids = np.array([7, 8, 11, 12, 13, 17, *range(19, 29), 31, 32, 33])
    for name in names:
        train_ids, ids = (
            np.asarray(Image.open(tmp_path / f"vis{i}/raw_segmentation_results/{name}.png"))
            for i in (0, 1)
        )
        np.testing.assert_array_equal(ids, label_ids[train_ids])
        assert ids.dtype == np.uint8 and ids.shape == trees.SIZES[int(name[12])]
