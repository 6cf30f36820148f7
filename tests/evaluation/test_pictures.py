"""Pictures of a prediction, pixel by pixel where a hand can calculate them."""

import csv
import io
import itertools

import numpy as np
import pytest
from PIL import Image, ImageFont

from deeplab_tf.config.pictures import PictureConfig
from deeplab_tf.data.catalog import LabelClass
from deeplab_tf.evaluation import areas, outputs, pictures, report
from deeplab_tf.messages import UserError

NAMES = ["road", "sky", "car"]
COLORS = [(128, 64, 128), (70, 130, 180), (0, 0, 142)]
CLASSES = [LabelClass(*pair) for pair in zip(NAMES, COLORS, strict=True)]
RNG = np.random.default_rng(0)
IMAGE = RNG.integers(0, 256, [30, 40, 3]).astype(np.uint8)
LABELS = (np.arange(40) // 20 * np.ones([30, 1])).astype(np.uint8)  # road, then sky


def test_overlays_are_as_they_were_and_of_any_opacity():
    painted = report.colorize(LABELS, COLORS)
    # Before there was an opacity: the half of the sum, without its fraction.
    before = (IMAGE.astype(int) + painted) // 2
    np.testing.assert_array_equal(report.overlay(IMAGE, LABELS, COLORS), before)
    for alpha, expected in ((0, IMAGE), (1, painted)):
        found = report.overlay(IMAGE, LABELS, COLORS, alpha=alpha)
        np.testing.assert_array_equal(found, expected)
    grey = np.full([1, 1, 3], 200, np.uint8)
    found = report.overlay(grey, np.array([[1]], np.uint8), COLORS, alpha=0.25)
    assert found[0, 0].tolist() == [167, 182, 195]  # 200 - 130 / 4, 200 - 70 / 4, 200 - 20 / 4
    same = report.overlay(
        np.full([1, 1, 3], 128, np.uint8), LABELS[:1, :1], [(128,) * 3], alpha=0.3
    )
    assert same[0, 0].tolist() == [128, 128, 128]


def test_errors_are_red_or_of_their_true_class():
    image = np.full([1, 4, 3], [0, 90, 210], np.uint8)  # its mean is 100
    label = np.array([[0, 1, 255, 2]], np.uint8)
    prediction = np.array([[0, 2, 1, 0]], np.uint8)
    pale = [round(255 - 0.3 * 155)] * 3
    for colors, wrong in (((), [pictures.WRONG] * 2), (COLORS, COLORS[1:])):
        found = pictures.errors(image, label, prediction, ignore_label=255, colors=colors)
        expected = [pale, list(wrong[0]), [128] * 3, list(wrong[1])]
        assert found[0].tolist() == expected


def test_ignored_pixels_have_a_colour_of_their_own():
    assert pictures.color_of_ignored(COLORS) == pictures.IGNORED == (128, 128, 128)
    assert pictures.color_of_ignored([*COLORS, (128, 128, 128)]) == (0, 0, 0)  # CamVid's sky
    assert pictures.color_of_ignored([(120, 130, 128), (0, 0, 0)]) == (255, 255, 255)
    greys = [(value,) * 3 for value in range(256)]
    assert pictures.color_of_ignored(greys) == (255, 0, 255)
    label, found = np.array([[255, 3]], np.uint8), np.zeros([1, 2], np.uint8)
    classes = [*CLASSES, LabelClass("grey", (128, 128, 128))]
    panels, legend = pictures.compared(
        IMAGE[:1, :2], found, classes, truth=label, ignore_label=255, error_map="red"
    )
    assert panels["label"][0].tolist() == [[0, 0, 0], [128, 128, 128]]
    assert panels["errors in red"][0].tolist() == [[0, 0, 0], [*pictures.WRONG]]
    assert legend == [("road", COLORS[0]), ("grey", (128, 128, 128)), ("ignored", (0, 0, 0))]


@pytest.mark.parametrize("classes", [3, 150])
def test_a_confusion_matrix_is_darker_where_there_is_more(classes):
    matrix = np.zeros([classes, classes], np.int64)
    matrix[0, :2] = 1, 3
    matrix[1, 1] = 5
    picture = np.asarray(report.confusion_picture(matrix, [f"class {n}" for n in range(classes)]))
    cell = {3: 48, 150: 14}[classes]
    start = picture.shape[0] - 8 - classes * cell
    # Two pixels within the upper right corner of each cell, where no number is.
    row = [picture[start + 2, start + (n + 1) * cell - 2].tolist() for n in range(classes)]
    assert row[:3] == [[191, 191, 255], [63, 63, 255], [255, 255, 255]]
    assert picture[start + 2 * cell + 2, start + cell - 2].tolist() == [235] * 3  # no such label


def test_confidence_is_the_highest_probability():
    probabilities = np.array([[[0.2, 0.5, 0.3], [0, 0, 1]]], np.float32)
    assert pictures.confidence(probabilities).tolist() == [[128, 255]]


def patches(picture):
    """The colours in a picture that are neither black, white nor a grey of its letters."""
    colors = {color for _, color in picture.getcolors(1 << 16)}
    return {color for color in colors if len(set(color)) > 1}


def test_a_legend_has_the_classes_that_occur():
    entries = pictures.occurring([LABELS, np.array([[0, 255]])], NAMES, COLORS)
    assert entries == list(zip(NAMES, COLORS, strict=True))[:2]
    picture = pictures.legend(entries, width=300)
    assert picture.width == 300 and patches(picture) == set(COLORS[:2])
    assert pictures.legend(entries, width=10).width > 10  # wide enough for a name


def test_a_legend_of_many_long_names_keeps_all_its_patches():
    colors = [(i, 255 - i, 7) for i in range(150)]
    names = [f"{i} {'long ' * 30}" for i in range(150)]
    picture = pictures.legend(list(zip(names, colors, strict=True)), width=900)
    assert patches(picture) == set(colors) and picture.width == 900


def test_names_that_the_font_does_not_have_are_drawn_all_the_same(monkeypatch):
    entries = [("道路\n", COLORS[0]), ("Straße", COLORS[1])]
    for font in (None, ImageFont.load_default_imagefont()):
        if font:
            monkeypatch.setattr(report, "font", lambda size, font=font: font)
            assert report.confusion_picture(np.eye(2), [name for name, _ in entries])
        assert patches(pictures.legend(entries, width=300)) == set(COLORS[:2])


@pytest.mark.parametrize("size", [(30, 40), (1300, 700), (5, 900)])
def test_a_page_has_all_panels(size):
    pixels = [np.full([*size, 3], color, np.uint8) for color in COLORS]
    page = pictures.page(dict(zip(["image", "label", "a longer title"], pixels, strict=True)), [])
    colors = np.asarray(page).reshape(-1, 3)
    areas = [int((colors == color).all(axis=1).sum()) for color in COLORS]
    times = min(640 / max(size), -(-240 // max(size)))
    height, width = (round(side * times) for side in size)
    assert areas == [height * width] * 3


def of_image(error_map="", truth=None, probabilities=None, **settings):
    predicted = outputs.Predicted(IMAGE, LABELS, probabilities, truth)
    config = PictureConfig(**settings)
    return {
        name: (ending, content)
        for name, ending, content in outputs.of_image(
            predicted,
            config,
            CLASSES,
            image_path="a.png",
            ignore_label=255,
            error_map=error_map,
        )
    }


def opened(content):
    return np.asarray(Image.open(io.BytesIO(content)))


def test_nothing_more_is_written_unless_it_is_asked_for():
    assert of_image() == {}


@pytest.mark.parametrize("error_map", ["red", "class"])
def test_everything_that_is_asked_for(error_map):
    truth = LABELS.copy()
    truth[:5] = 2
    truth[29] = 255
    probabilities = np.zeros([30, 40, 3], np.float32)
    np.put_along_axis(probabilities, LABELS[..., np.newaxis].astype(int), 0.9, axis=-1)
    found = of_image(
        error_map=error_map,
        truth=truth,
        probabilities=probabilities,
        legend=True,
        side_by_side=True,
        save_probabilities=("npz", "png"),
        save_polygons=("coco", "labelme"),
    )
    assert {name: ending for name, (ending, _) in found.items()} == {
        "legend": ".png",
        "errors": ".png",
        "side_by_side": ".png",
        "confidence": ".png",
        "probabilities": ".npz",
        "labelme": ".json",
    }
    with_legend = opened(found["legend"][1])
    np.testing.assert_array_equal(with_legend[:30, :40], report.overlay(IMAGE, LABELS, COLORS))
    painted = opened(found["errors"][1])
    assert (painted[:5] == (COLORS[2] if error_map == "class" else pictures.WRONG)).all()
    page = Image.fromarray(opened(found["side_by_side"][1]))
    # Five panels of 240 pixels, with the class that only the label has.
    assert page.width > 5 * 240 and COLORS[2] in patches(page)
    assert (opened(found["confidence"][1]) == round(0.9 * 255)).all()
    with np.load(io.BytesIO(found["probabilities"][1])) as file:  # without pickle
        assert file["probabilities"].dtype == np.float16 and list(file["classes"]) == NAMES
        np.testing.assert_array_equal(file["probabilities"].argmax(-1), LABELS)


def test_areas_of_the_classes_that_occur():
    table = areas.AreaTable(NAMES)
    table.add("a.jpg", np.array([[0, 0, 2, 0]], np.uint8))
    table.add("b,\n.jpg", np.ones([3, 3], np.uint8))
    assert list(csv.reader(io.StringIO(table.text()))) == [
        ["image", "class", "pixels", "share"],
        ["a.jpg", "road", "3", "0.750000"],
        ["a.jpg", "car", "1", "0.250000"],
        ["b,\\n.jpg", "sky", "9", "1.000000"],
    ]


def test_what_is_not_known_is_refused():
    for value in (("pnz",), ("npz", "npz")):
        with pytest.raises(
            UserError, match="--save_probabilities=.* is not possible; allowed: npz"
        ):
            PictureConfig(save_probabilities=value)
    with pytest.raises(UserError, match="allowed: coco, labelme, or both with a comma"):
        PictureConfig(save_polygons=("voc",))
    for alpha in (-0.1, 1.1):
        with pytest.raises(UserError, match="--overlay_alpha=.*; allowed: 0 to 1"):
            PictureConfig(overlay_alpha=alpha)
    every = [
        PictureConfig(legend=a, save_polygons=b).kinds()
        for a, b in itertools.product((False, True), ((), ("coco",)))
    ]
    assert every == [{}, {}, {"legend": ".png"}, {"legend": ".png"}]


def test_ignored_pixels_of_a_label_are_grey_on_a_page():
    def greys(label):
        page = opened(of_image(truth=label, side_by_side=True)["side_by_side"][1])
        return int((page == pictures.IGNORED).all(axis=-1).sum())

    more = greys(np.full([30, 40], 255, np.uint8)) - greys(LABELS)
    # The panel, six times as large, and the legend's patch of 13 x 13 pixels within its outline.
    assert more >= 36 * LABELS.size + 13 * 13
