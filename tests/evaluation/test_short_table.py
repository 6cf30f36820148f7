"""The few lines of scores in the training log."""

import numpy as np

from deeplab_tf.evaluation.short_table import short_table

NAN = float("nan")


def test_each_class_has_its_iou_in_percent_and_lines_are_short():
    names = ["road", "traffic light", "well-known sign", "sky"]
    text = short_table(np.array([0.98765, 0.5, 0.001, NAN]), names, width=41)
    assert text.splitlines() == [
        "  IoU %:  road 98.8,  traffic light 50.0,",
        "    well-known sign 0.1",
    ]


def test_of_many_classes_the_lowest_and_the_highest_are_shown():
    iou = np.arange(40) / 100
    text = short_table(iou, [f"class_{number}" for number in range(40)], width=400)
    low, high = text.splitlines()
    assert low.startswith("  IoU %, the 8 lowest:  class_0 0.0,  class_1 1.0,")
    assert low.endswith("class_7 7.0") and "class_8" not in low
    assert high.startswith("  IoU %, the 8 highest:  class_32 32.0,")
    assert high.endswith("class_39 39.0")


def test_a_table_without_scores_is_empty():
    assert short_table(np.array([NAN]), ["road"], width=80) == "  IoU %:"
