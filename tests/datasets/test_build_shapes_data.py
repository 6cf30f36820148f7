import numpy as np
from PIL import Image

from datasets.build_shapes_data import COLORS, ShapesConfig, draw_example, main


def files(folder):
    paths = [path for path in folder.rglob("*.*") if path.suffix != ".txt"]
    return {path.relative_to(folder): path.read_bytes() for path in paths}


def test_the_same_seed_draws_the_same_files(tmp_path):
    for name in ("a", "b"):
        main(ShapesConfig(output_dir=str(tmp_path / name), num_train=3, num_val=2))
    assert files(tmp_path / "a") == files(tmp_path / "b") and len(files(tmp_path / "a")) == 11


def test_all_classes_and_the_ignored_border_occur():
    labels = [draw_example(np.random.default_rng(number))[1] for number in range(30)]
    values = set(np.unique(np.concatenate([label.ravel() for label in labels])))
    assert values == {*range(len(COLORS)), 255} and len(COLORS) >= 7
    for label in labels:  # no shape touches the ground without a border between them
        shape, ground = (label > 0) & (label < 255), label == 0
        assert not (shape[1:] & ground[:-1]).any() and not (shape[:, 1:] & ground[:, :-1]).any()


def test_masks_keep_the_ignored_label_in_their_files(tmp_path):
    main(ShapesConfig(output_dir=str(tmp_path), num_train=1, num_val=1))
    mask = Image.open(tmp_path / "masks" / "train" / "train_0000.png")
    expected = draw_example(np.random.default_rng([0, 0, 0]))[1]
    assert mask.mode == "P"
    np.testing.assert_array_equal(np.asarray(mask), expected)
