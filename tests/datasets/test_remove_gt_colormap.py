import numpy as np
import pytest
from PIL import Image

from datasets import remove_gt_colormap
from deeplab_tf.messages import UserError
from tests import trees


def convert(folder, output):
    config = remove_gt_colormap.ColormapConfig(original_gt_folder=folder, output_dir=output)
    remove_gt_colormap.main(config)


def test_values_stay_and_colors_go(tmp_path):
    values = np.arange(256).reshape(8, 32)
    for name, palette in (("palette", True), ("grey", False)):
        trees.write_mask(tmp_path / f"in/{name}.png", values, palette=palette)
    convert(tmp_path / "in", tmp_path / "out")
    for name in ("palette", "grey"):
        image = Image.open(tmp_path / f"out/{name}.png")
        assert image.mode == "L"
        np.testing.assert_array_equal(np.asarray(image), values)


def test_colors_are_not_taken_for_values(tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    Image.new("RGB", (4, 4), (128, 0, 0)).save(folder / "a.png")  # VOC's class 1
    with pytest.raises(UserError, match=r"a\.png holds colours, not indices"):
        convert(folder, tmp_path / "out")
    assert not list((tmp_path / "out").glob("*.png"))


def test_originals_are_not_overwritten(tmp_path):
    trees.write_mask(tmp_path / "a.png", np.zeros([2, 2]), palette=True)
    before = (tmp_path / "a.png").read_bytes()
    with pytest.raises(UserError, match="which would be overwritten"):
        convert(tmp_path, tmp_path / "x/..")
    assert (tmp_path / "a.png").read_bytes() == before
    with pytest.raises(UserError, match=r"holds no \.png"):
        (tmp_path / "empty").mkdir()
        convert(tmp_path / "empty", tmp_path / "out")
