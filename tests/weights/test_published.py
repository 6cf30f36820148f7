"""The table of published weights, compared with the recipes and the page that lists them."""

import re
from pathlib import Path

import pytest

from deeplab_tf import archives, import_weights
from deeplab_tf.config import flags
from deeplab_tf.config.programs import ImportConfig
from deeplab_tf.weights.published import PUBLISHED

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/weights.md").read_text()
RECIPES = {path.stem: path for path in ROOT.glob("configs/**/*.flags")}


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_row_is_the_pages_and_the_recipes(name):
    weights = PUBLISHED[name]
    file = weights.url.rpartition("/")[2]
    (row,) = [line for line in PAGE.splitlines() if re.search(rf"`{re.escape(file)}`", line)]
    assert f" {weights.miou.split()[0]}" in row
    if "download.tensorflow.org" in weights.url:
        assert f"({weights.url})" in row
        for setting, value in weights.settings.items():
            text = ",".join(map(str, value)) if isinstance(value, tuple) else value
            assert f"--{setting}" in row and (value is True or f"{text}" in row)
    else:
        assert weights.url == f"{address_of_the_release()}/{file}"
        assert f"| {weights.settings['output_stride']} |" in row

    if name in RECIPES:
        recipe = RECIPES[name].read_text()
        assert f"mIoU {weights.miou.split()[0]} %" in recipe
        experiment = flags.parse_flagfile(RECIPES[name])
        assert experiment.model.output_stride == weights.settings.get(
            "output_stride", int(re.search(r"_os(\d+)", name)[1])
        )
        rates = weights.settings.get("atrous_rates")
        assert rates is None or rates == experiment.model.atrous_rates


def address_of_the_release():
    return re.search(r"`(https://github.com/\S+/ssseg_deeplabv3)/FILE`", PAGE)[1]


def test_every_recipe_of_an_ancestor_has_published_weights():
    with_numbers = {
        name for name, path in RECIPES.items() if "# Published: mIoU" in path.read_text()
    }
    assert with_numbers == with_numbers & set(PUBLISHED) and len(with_numbers) == 25


def test_the_list_has_all_facts(capsys):
    import_weights.main(ImportConfig(list=True))
    printed = capsys.readouterr().out
    for name, weights in PUBLISHED.items():
        assert f"{name}: " in printed and weights.url in printed
    assert printed.count("licence: ") == printed.count("hash: ") == len(PUBLISHED)
    assert printed.count("size: not published") == 18  # SSSegmentation's 16, and the EdgeTPU's 2


def test_the_cache_is_where_the_user_says(monkeypatch):
    monkeypatch.setenv("HOME", "/h")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.delenv("DEEPLAB_TF_HOME", raising=False)
    assert archives.home() == Path("/h/.cache/deeplab_tf")
    monkeypatch.setenv("XDG_CACHE_HOME", "/x")
    assert archives.home() == Path("/x/deeplab_tf")
    monkeypatch.setenv("DEEPLAB_TF_HOME", "/own")
    assert archives.home() == Path("/own")
