"""What a curve shows, read from its SVG."""

import json
import math
import os
import subprocess
import sys
from html.parser import HTMLParser
from xml.etree import ElementTree

import numpy as np
import pytest

from deeplab_tf.reporting import curves

NAN = math.nan


def parts_of_line(figure):
    """The places of the curve, x and y in pixels from the top left, one array for each part."""
    drawn = (path for path in figure.iter("path") if path.get("clip-path"))
    (path,) = (path for path in drawn if "currentColor" not in path.get("style"))  # no grid
    parts = path.get("d").replace("L", " ").split("M")[1:]
    return [np.array(part.split(), float).reshape(-1, 2) for part in parts]


def marks(figure):
    """The places of the marks of single points."""
    groups = [group for group in figure.iter("g") if group.get("clip-path")]
    found = [mark for group in groups for mark in group.iter("use")]
    return [(float(mark.get("x")), float(mark.get("y"))) for mark in found]


def ticks(figure):
    """The numbers at the axes."""
    return [text.text for text in figure.iter("text")]


@pytest.mark.parametrize("scale", [1e-12, 1.0, 3e38])
def test_all_points_are_drawn_to_scale(scale):
    steps, values = np.array([0, 10, 40, 100]), np.array([0.0, 1.0, -0.5, 0.25])
    figure = curves.curve("Loss", list(zip(steps.tolist(), values * scale, strict=True)))
    (line,) = parts_of_line(figure)
    # The same shares of the way between the lowest and the highest, whatever the axes; y falls.
    assert (line[:, 0] - line[0, 0]) / np.ptp(line[:, 0]) == pytest.approx(steps / 100, abs=1e-4)
    above = (line[2, 1] - line[:, 1]) / np.ptp(line[:, 1])
    assert above == pytest.approx((values + 0.5) / 1.5, abs=1e-4)


def test_one_peak_among_many_points_is_seen_and_the_page_stays_small():
    values = np.sin(np.arange(30_000) / 100)
    values[12_345] = 5
    figure = curves.curve("Loss", list(enumerate(values.tolist())))
    (line,) = parts_of_line(figure)
    peak = line[line[:, 1].argmin(), 0] - line[:, 0].min()
    assert peak / np.ptp(line[:, 0]) == pytest.approx(12_345 / 29_999, abs=0.005)
    assert len(ElementTree.tostring(figure)) < 60_000


def test_what_is_not_finite_leaves_a_gap_and_a_point_between_gaps_a_mark():
    values = [1.0, 2.0, NAN, 4.0, math.inf, 6.0, 7.0, -math.inf]
    figure = curves.curve("Loss", list(enumerate(values)))
    parts = [part for part in parts_of_line(figure) if len(part) > 1]
    assert [len(part) for part in parts] == [2, 2]
    ((x, y),) = marks(figure)
    # Value 4 at step 3: halfway between step 0 and step 6, and between 1 and 7.
    ends = parts[0][0], parts[1][1]
    assert (x, y) == pytest.approx(((ends[0][0] + ends[1][0]) / 2, (ends[0][1] + ends[1][1]) / 2))
    assert "lowest 1 at step 0, highest 7 at step 6" in figure[0].get("aria-label")


def test_a_single_point_is_seen():
    figure = curves.curve("Training loss", [(7, 0.5)])
    assert figure[0].get("aria-label") == "Training loss: 0.5 at step 7."
    assert len(marks(figure)) == 1
    assert "7" in ticks(figure) and ticks(figure).count("7") == 1


@pytest.mark.parametrize(
    "values", [[93.66], [0.0], [100.0], [0.0, 0.4], [99.0, 99.9], [NAN, 100.0], [30.0, 70.0]]
)
def test_an_axis_of_percent_stays_within_0_and_100(values):
    figure = curves.curve("mIoU", list(enumerate(values, 500)), unit="%", marked=True)
    texts = ticks(figure)
    shown = [
        float(text.replace("\N{MINUS SIGN}", "-")) for text in texts[texts.index("step") + 1 : -1]
    ]
    assert len(shown) > 1 and min(shown) >= 0 and max(shown) <= 100
    if len(values) == 1:
        assert (shown[0], shown[-1]) == (0, 100)


def test_each_of_few_points_has_a_mark_if_wanted_and_words_say_the_same():
    figure = curves.curve("IoU", [(0, 0.0), (50, 25.0), (100, 100.0)], unit="%", marked=True)
    assert len(marks(figure)) == 3
    assert figure[0].get("role") == "img"
    assert figure[0].get("aria-label") == figure[0].find("title").text == figure[1].text
    assert figure[1].text == (
        "IoU: 0 % at step 0, 100 % at step 100; lowest 0 % at step 0, highest 100 % at step 100."
    )
    assert {"IoU, %", "step", "0", "20", "100"} <= {*ticks(figure)}


def test_names_of_users_are_texts():
    name = "split <script>alert(1)</script> & $\\frac{}$ 训练"
    figure = curves.curve("mIoU", [(1, 2.0), (2, 3.0)], of=name)
    seen = []

    class Reader(HTMLParser):
        def handle_starttag(self, tag, attrs):
            seen.append(tag)

        def handle_data(self, data):
            seen.append(data)

    Reader().feed(ElementTree.tostring(figure, encoding="unicode", method="html"))
    assert any(f"mIoU, {name}: 2 at" in part for part in seen) and "script" not in seen


def test_curves_of_one_page_share_no_ids_and_are_the_same_each_time():
    points = [(1, 2.0), (2, NAN), (3, 3.0)]
    figures = [curves.curve("mIoU", points, of=split) for split in ("a", "b", "b")]
    texts = [ElementTree.tostring(figure, encoding="unicode") for figure in figures]
    assert texts[1] == texts[2]
    ids = [{part.get("id") for part in figure.iter()} - {None} for figure in figures]
    assert ids[0] and not ids[0] & ids[1]
    for figure, own in zip(figures, ids, strict=True):
        links = [part.get("href", "#")[1:] for part in figure.iter("use")]
        assert {*links} <= own


def test_the_ink_is_that_of_the_page():
    text = ElementTree.tostring(curves.curve("Loss", [(1, 2.0), (2, 3.0)]), encoding="unicode")
    assert "currentColor" in text and "#000" not in text and "http" not in text


@pytest.mark.parametrize("place", ["new", "unwritable"])
def test_the_library_says_nothing_of_its_own(tmp_path, place):
    """Neither that it builds its cache of fonts, nor where it cannot; the style is ours."""
    home = tmp_path / "home"
    if place == "new":
        (home / ".config/matplotlib").mkdir(parents=True)
        (home / ".config/matplotlib/matplotlibrc").write_text("font.size: 40\nno.such: 1\n")
    else:
        home.write_text("no folder")
    program = (
        "import json\n"
        "from deeplab_tf.reporting import curves, markup\n"
        "from xml.etree import ElementTree\n"
        "print(json.dumps(ElementTree.tostring(curves.curve('Loss', [(1, 2.0), (2, 3.0)]),"
        " encoding='unicode')))\n"
        "import sys; assert 'matplotlib.pyplot' not in sys.modules\n"
    )
    environment = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("MPL", "XDG_", "MATPLOTLIB"))
    }
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=environment | {"HOME": str(home), "MATPLOTLIBRC": "", "TF_CPP_MIN_LOG_LEVEL": "3"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "atplotlib" not in done.stderr and str(home) not in done.stderr
    here = curves.curve("Loss", [(1, 2.0), (2, 3.0)])
    assert json.loads(done.stdout) == ElementTree.tostring(here, encoding="unicode")
