from pathlib import Path

import numpy as np
import pytest

from deeplab_tf import config_flags
from deeplab_tf.data import catalog
from deeplab_tf.models.deeplab import build_model

CONFIGS = Path(__file__).parents[1] / "configs"
CLASSES = {"ade20k": 150, "camvid": 11, "shapes": 7}


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.flags")), ids=lambda path: path.stem)
def test_every_recipe_is_whole(path):
    text = path.read_text()
    for heading in ("# Paper:", "# Run:", "# Measured:"):
        assert heading in text
    assert len(text.splitlines()) <= 40
    experiment = config_flags.parse_flagfile(path)
    dataset, backbone, stride = path.stem.split("_")
    assert experiment.data.dataset == dataset
    assert experiment.model.model_variant.endswith(f"_{backbone[1:]}")
    assert experiment.model.output_stride == int(stride[2:])
    num_classes = CLASSES[dataset]
    if dataset in catalog.KNOWN:
        assert catalog.load(dataset, "").num_classes == num_classes
    model = build_model(experiment.model, num_classes=num_classes)
    logits = model(np.zeros([1, 65, 65, 3], np.float32))["logits"]
    cells = -(-65 // experiment.model.output_stride)
    assert logits.shape == (1, cells, cells, num_classes)
