"""Which images predict takes, and what a bad one does; the model is a threshold."""

import csv
import json
import os
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from deeplab_tf import files, predict
from deeplab_tf.config.pictures import PictureConfig
from deeplab_tf.config.programs import PredictConfig
from deeplab_tf.data.catalog import LabelClass
from deeplab_tf.jobs import prediction
from deeplab_tf.messages import UserError
from deeplab_tf.serving import signatures

CLASSES = (LabelClass("dark", (0, 0, 0)), LabelClass("light", (250, 240, 230)))


def labels_of(images):
    if images.shape[2] > 30:
        raise signatures.RefusedImage("more than 30 pixels wide")
    return (images[..., 0] > 127).astype(np.uint8)


def both_of(images):
    light = images[..., 0] / np.float32(255)
    return labels_of(images), np.stack([1 - light, light], axis=-1)


@pytest.fixture
def photos(tmp_path, monkeypatch):
    """Three images; `b.jpg` is cut."""
    model = SimpleNamespace(labels=labels_of, labels_and_probabilities=both_of)
    monkeypatch.setattr(prediction, "_model_of", lambda job: (model, CLASSES))
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "photos"
    folder.mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, [3, 20, 30, 3], np.uint8)
    for name, image in zip(("a.png", "b.jpg", "c.tif"), pixels, strict=True):
        Image.fromarray(image).save(folder / name)
    cut = (folder / "b.jpg").read_bytes()
    (folder / "b.jpg").write_bytes(cut[: len(cut) // 2])
    return folder


def job(**values):
    return PredictConfig(
        **{"input": ("photos",), "output_dir": "out", "checkpoint_dir": "run"} | values
    )


def written(folder="out"):
    return sorted(os.listdir(f"{folder}/index"))


def test_a_bad_image_is_listed_and_the_others_are_predicted(photos, capsys):
    with pytest.raises(UserError, match="1 of 3 images were not predicted, .* --skip_bad"):
        predict.main(job())
    assert written() == ["a.png", "c.png"]
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "out: 2 images." and len(lines) == 2
    assert lines[1].startswith("  skipped: photos/b.jpg cannot be decoded")
    for name in ("a.png", "c.tif"):
        pixels = np.asarray(Image.open(photos / name))
        index = np.asarray(Image.open(f"out/index/{name[0]}.png"))
        np.testing.assert_array_equal(index, pixels[..., 0] > 127)
        color = np.asarray(Image.open(f"out/color/{name[0]}.png"))
        np.testing.assert_array_equal(color[index == 1][0], (250, 240, 230))


def test_a_dropped_channel_is_told(photos, capsys):
    """The transparency of a PNG; the bad image and the RGB one have none."""
    pixels = np.full([20, 30, 4], 200, np.uint8)
    Image.fromarray(pixels).save(photos / "d.png")
    predict.main(job(skip_bad=True))
    assert written() == ["a.png", "c.png", "d.png"]
    warning = capsys.readouterr().err
    assert warning.startswith(
        "Warning: 1 image (the first: 'photos/d.png') with channels other than"
    )


def test_bad_images_may_be_skipped(photos, capsys):
    predict.main(job(skip_bad=True))
    assert written() == ["a.png", "c.png"] and "skipped: photos/b.jpg" in capsys.readouterr().out


def test_an_image_that_the_model_refuses_is_a_bad_one(photos, capsys):
    Image.new("RGB", (31, 5)).save(photos / "wide.png")
    predict.main(job(skip_bad=True))
    assert "skipped: photos/wide.png: more than 30 pixels wide" in capsys.readouterr().out


def test_without_a_good_image_skipping_is_an_error_too(photos):
    with pytest.raises(UserError, match="photos/b.jpg cannot be decoded"):
        predict.main(job(input=("photos/b.jpg",), skip_bad=True))
    (photos / "d.png").write_bytes(b"")
    with pytest.raises(UserError, match="None of the 2 images could be predicted"):
        predict.main(job(input=("photos/b.jpg", "photos/d.png"), skip_bad=True))


def test_an_output_that_cannot_be_written_stops_the_job(photos, monkeypatch):
    def full(path, content, **how):
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(files, "write", full)
    with pytest.raises(OSError, match="No space left"):
        predict.main(job(skip_bad=True))


def test_what_is_left_out_of_a_folder_is_said(photos, capsys):
    (photos / "._a.png").write_bytes(b"x")
    (photos / "film.mp4").write_bytes(b"x")
    predict.main(job(skip_bad=True))
    assert "--input: 3 images; left out: 1 .mp4, 1 hidden (.*)." in capsys.readouterr().out


def test_two_images_are_never_written_to_one_file(photos, monkeypatch):
    Image.new("RGB", (9, 9)).save(photos / "a.jpg")
    with pytest.raises(
        UserError, match=r"photos/a.jpg and photos/a.png would both be written as a"
    ):
        predict.main(job())
    (photos / "a.jpg").rename(photos / "A.jpg")
    predict.main(job(skip_bad=True))  # two files, where capitals count
    assert written() == ["A.png", "a.png", "c.png"]
    monkeypatch.setattr(files, "same_place", lambda folder, one, other: True)
    with pytest.raises(UserError, match=r"photos/A.jpg and photos/a.png would both be written"):
        predict.main(job())


def test_an_input_is_never_replaced(photos):
    predict.main(job(skip_bad=True))
    before = (photos.parent / "out/color/a.png").read_bytes()
    with pytest.raises(UserError, match=r"out/color/a.png is an input that would be replaced"):
        predict.main(job(input=("out/color/a.png",)))
    assert (photos.parent / "out/color/a.png").read_bytes() == before


def test_a_name_that_is_no_utf8_is_predicted_under_it(photos, capsys):
    name = os.fsdecode(b"caf\xe9")
    (photos / "a.png").rename(photos / f"{name}.png")
    (photos / "b.jpg").rename(photos / f"{name}2.jpg")
    predict.main(job(skip_bad=True))
    assert written() == ["c.png", f"{name}.png"]
    assert r"skipped: photos/caf\udce92.jpg" in capsys.readouterr().out


def test_everything_that_is_asked_for_lies_in_folders_of_its_own(photos):
    (photos / "b.jpg").unlink()
    predict.main(
        job(),
        PictureConfig(
            legend=True,
            side_by_side=True,
            save_areas=True,
            save_probabilities=("npz", "png"),
            save_polygons=("coco", "labelme"),
        ),
    )
    pictures = ("index", "color", "overlay", "legend", "side_by_side", "confidence")
    expected = {f"{kind}/{name}.png" for kind in pictures for name in "ac"}
    expected |= {f"probabilities/{name}.npz" for name in "ac"} | {"areas.csv", "coco.json"}
    expected |= {f"labelme/{name}.json" for name in "ac"}
    out = photos.parent / "out"
    assert {path.relative_to(out).as_posix() for path in out.rglob("*.*")} == expected

    index = np.asarray(Image.open(out / "index/c.png"))
    with np.load(out / "probabilities/c.npz") as file:
        pixels = np.asarray(Image.open(photos / "c.tif"))[..., 0]
        expected = np.stack([255 - pixels.astype(float), pixels], -1) / 255
        np.testing.assert_allclose(file["probabilities"], expected, atol=1e-3)
    rows = list(csv.DictReader((out / "areas.csv").open()))
    light = [row for row in rows if (row["image"], row["class"]) == ("c.tif", "light")]
    assert int(light[0]["pixels"]) == index.sum()
    labelme = json.loads((out / "labelme/c.json").read_text())
    assert (out / "labelme" / labelme["imagePath"]).resolve() == photos / "c.tif"
    coco = json.loads((out / "coco.json").read_text())
    assert [image["file_name"] for image in coco["images"]] == ["a.png", "c.tif"]


def test_no_picture_that_is_asked_for_replaces_an_input(photos):
    predict.main(job(skip_bad=True), PictureConfig(legend=True))
    with pytest.raises(UserError, match="out/legend/a.png is an input that would be replaced"):
        predict.main(job(input=("out/legend/a.png",)), PictureConfig(legend=True))


def test_a_server_gives_no_probabilities(photos):
    asked = job(server="host:1", checkpoint_dir="", class_list="x")
    with pytest.raises(UserError, match="cannot be had from a --server; predict with"):
        predict.main(asked, PictureConfig(save_probabilities=("png",)))
    assert not (photos.parent / "out").exists()
