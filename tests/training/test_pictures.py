"""Pictures for TensorBoard: where the image, the label and the prediction are in them."""

import numpy as np

from deeplab_tf.data.catalog import DatasetInfo, LabelClass
from deeplab_tf.training import pictures

INFO = DatasetInfo(
    name="two", classes=(LabelClass("wall", (200, 0, 0)), LabelClass("door", (0, 200, 0)))
)
TITLE, LEGEND = 14, 28  # pixels; one line of names


def example(height, width, value):
    return pictures.Example(
        np.full([height, width, 3], value, np.uint8), np.zeros([height, width], np.uint8)
    )


def doors(images):
    return np.ones(images.shape[:3], np.uint8)


def test_image_label_and_prediction_stand_side_by_side():
    page = pictures.draw([example(40, 60, 77)], doors, INFO)[0]
    assert page.shape == (TITLE + 40 + LEGEND, 180, 3)
    panels = page[TITLE : TITLE + 40]
    np.testing.assert_array_equal(panels[:, :60], np.full([40, 60, 3], 77))
    np.testing.assert_array_equal(panels[:, 60:120], np.broadcast_to([200, 0, 0], [40, 60, 3]))
    np.testing.assert_array_equal(panels[:, 120:], np.broadcast_to([0, 200, 0], [40, 60, 3]))


def test_large_images_are_reduced_without_new_colours_and_small_ones_get_margins():
    large = example(960, 640, 9)
    large.label[::2] = 1
    pages = pictures.draw([large, example(40, 60, 77)], doors, INFO)
    assert pages.shape[:3] == (2, TITLE + 480 + LEGEND, 3 * 320)
    label = pages[0, TITLE : TITLE + 480, 320:640].reshape(-1, 3)
    assert {tuple(color) for color in label.tolist()} <= {(200, 0, 0), (0, 200, 0)}
    assert (pages[1, TITLE + 40 + LEGEND :] == 255).all() and (pages[1, :, 180:] == 255).all()
