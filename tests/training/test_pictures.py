"""Pictures for TensorBoard: where the image, the label, the prediction and the errors are."""

import numpy as np

from deeplab_tf.data.catalog import DatasetInfo, LabelClass
from deeplab_tf.training import pictures

INFO = DatasetInfo(
    name="two", classes=(LabelClass("wall", (200, 0, 0)), LabelClass("door", (0, 200, 0)))
)
TITLE, GAP = 28, 8  # pixels: above each panel, and between them


def example(height, width, value):
    return pictures.Example(
        np.full([height, width, 3], value, np.uint8), np.zeros([height, width], np.uint8)
    )


def doors(images):
    return np.ones(images.shape[:3], np.uint8)


def panel(page, row, column, height, width, *, left=0):
    """A panel of a page; `left` is the width of a place, if that is wider than the panel."""
    top = TITLE + row * (TITLE + height + GAP // 2)
    start = GAP + column * (GAP + (left or width))
    return page[top : top + height, start : start + width]


def test_image_label_prediction_and_errors_stand_in_two_rows():
    small = example(300, 240, 77)
    small.label[:30] = 255  # ignored
    page = pictures.draw([small], doors, INFO)[0]
    label = np.broadcast_to([200, 0, 0], [300, 240, 3]).copy()
    label[:30] = 128
    errors = np.broadcast_to([230, 0, 0], [300, 240, 3]).copy()
    errors[:30] = 128
    expected = np.full([300, 240, 3], 77), label, np.broadcast_to([0, 200, 0], label.shape), errors
    for number, pixels in enumerate(expected):
        np.testing.assert_array_equal(panel(page, *divmod(number, 2), 300, 240), pixels)
    # The legend below has both classes and the ignored pixels.
    legend = page[2 * (TITLE + 300 + GAP // 2) :].reshape(-1, 3).tolist()
    assert {(200, 0, 0), (0, 200, 0), (128, 128, 128)} <= {tuple(color) for color in legend}


def test_large_images_are_reduced_without_new_colours_and_small_ones_get_margins():
    large = example(960, 720, 9)
    large.label[::2] = 1
    pages = pictures.draw([large, example(240, 240, 77)], doors, INFO)
    # 960 x 720 becomes 320 x 240.
    label = panel(pages[0], 0, 1, 320, 240).reshape(-1, 3)
    assert {tuple(color) for color in label.tolist()} <= {(200, 0, 0), (0, 200, 0)}
    second = pages[1]
    assert (panel(second, 1, 0, 240, 240) == [0, 200, 0]).all()
    assert (second[-100:] == 255).all()
