"""Which classes the weights of other programs have."""

import dataclasses

import numpy as np
import pytest

from deeplab_tf.config import ModelConfig
from deeplab_tf.config.programs import ImportConfig
from deeplab_tf.data import catalog
from deeplab_tf.runs import importing
from deeplab_tf.weights.mapping import Source
from deeplab_tf.weights.mmseg_config import Told

JOB = ImportConfig(source="m.pth", output="out")


def test_classes_without_colours_get_colours_that_can_be_told_apart():
    source = Source("mmsegmentation", ModelConfig(), 40, {}, {})
    for told in (Told(), Told(class_names=tuple(f"class {index}" for index in range(40)))):
        source = dataclasses.replace(source, told=told)
        colors = np.array(importing.classes_of(JOB, source).colors)
        apart = np.abs(colors[:, np.newaxis] - colors).max(axis=2)
        assert apart[~np.eye(40, dtype=bool)].min() >= 32


@pytest.mark.parametrize(
    ("dataset", "change", "name"),
    [
        ("cityscapes", lambda names: [name.replace("_", " ") for name in names], "cityscapes"),
        ("pascal_voc_seg", lambda names: ["background", *names[1:]], "pascal_voc_seg"),
        ("cityscapes", lambda names: [*names[1:], names[0]], "classes_19"),
        # In mmsegmentation's own order, which is not the order of the labels.
        ("pascal_context_59", lambda names: names[::-1], "pascal_context_59"),
        ("pascal_context_59", lambda names: [*names[1:], "moss"], "classes_59"),
        # One name is missing: the list says nothing.
        ("cityscapes", lambda names: names[1:], "cityscapes"),
    ],
)
def test_names_in_the_file_decide_between_data_sets(dataset, change, name):
    names = change(catalog.load(dataset, "").class_names)
    count = catalog.load(dataset, "").num_classes
    told = Told(class_names=tuple(names))
    source = Source("mmsegmentation", ModelConfig(), count, {}, {}, told=told)
    assert importing.classes_of(JOB, source).name == name
