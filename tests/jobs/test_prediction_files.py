"""What predict writes next to the usual pictures, in one call and in several; see thresholds."""

import csv
import functools
import json
import os

import numpy as np
import pytest
from PIL import Image

from deeplab_tf import files, predict
from deeplab_tf.config.pictures import PictureConfig
from deeplab_tf.jobs import asked_model, prediction_files
from deeplab_tf.messages import UserError
from tests.jobs import thresholds
from tests.jobs.thresholds import job, written

SUMMARIES = PictureConfig(save_areas=True, save_polygons=("coco",))
LABELME = PictureConfig(save_polygons=("labelme",))


def areas(path="out/areas.csv"):
    """Pixels of the class `light` by image."""
    with open(path) as file:
        rows = list(csv.DictReader(file))
    return {row["image"]: int(row["pixels"]) for row in rows if row["class"] == "light"}


def light(path):
    return int(np.count_nonzero(np.asarray(Image.open(path))[..., 0] > 127))


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
    expected |= {"finished/all.jsonl", "finished/model.json"}
    out = photos.parent / "out"
    assert {path.relative_to(out).as_posix() for path in out.rglob("*.*")} == expected

    index = np.asarray(Image.open(out / "index/c.png"))
    with np.load(out / "probabilities/c.npz") as file:
        pixels = np.asarray(Image.open(photos / "c.tif"))[..., 0]
        expected = np.stack([255 - pixels.astype(float), pixels], -1) / 255
        np.testing.assert_allclose(file["probabilities"], expected, atol=1e-3)
    assert areas() == {"a.png": light(photos / "a.png"), "c.tif": index.sum()}
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
    with pytest.raises(UserError, match="is not possible with a --server; predict with"):
        predict.main(asked, PictureConfig(save_probabilities=("png",)))
    assert not (photos.parent / "out").exists()


def test_a_kind_that_is_asked_for_later_is_written_then(photos, capsys):
    predict.main(job(skip_bad=True))
    predict.main(job(skip_bad=True), PictureConfig(legend=True))
    assert sorted(os.listdir("out/legend")) == ["a.png", "c.png"]
    capsys.readouterr()
    predict.main(job(skip_bad=True), PictureConfig(legend=True))
    assert "2 of them by an earlier call" in capsys.readouterr().out


def test_a_legend_of_an_earlier_state_of_the_image_is_replaced(photos):
    """Though it is there, and the image was finished without a legend since."""
    asked = job(input=("photos/a.png",))
    predict.main(asked, PictureConfig(legend=True))
    Image.new("RGB", (30, 20), "white").save(photos / "a.png")
    predict.main(asked)
    predict.main(asked, PictureConfig(legend=True))
    legend = np.asarray(Image.open("out/legend/a.png"))
    overlay = np.asarray(Image.open("out/overlay/a.png"))
    np.testing.assert_array_equal(legend[:20, :30], overlay)


def test_another_opacity_needs_another_folder(photos):
    predict.main(job(skip_bad=True))
    with pytest.raises(UserError, match=r"another overlay_alpha \(0.5; now 0.25\); give another"):
        predict.main(job(skip_bad=True), PictureConfig(overlay_alpha=0.25))
    predict.main(job(skip_bad=True, output_dir="other"), PictureConfig(overlay_alpha=0.0))
    pixels = np.asarray(Image.open(photos / "a.png"))
    np.testing.assert_array_equal(np.asarray(Image.open("other/overlay/a.png")), pixels)


def test_a_call_without_a_good_image_keeps_no_folder(photos):
    asked = job(input=("photos/b.jpg",))
    for alpha in (0.5, 0.3):
        with pytest.raises(UserError, match="photos/b.jpg cannot be decoded"):
            predict.main(asked, PictureConfig(overlay_alpha=alpha))
    predict.main(job(skip_bad=True), PictureConfig(overlay_alpha=0.25))
    with pytest.raises(UserError, match=r"another overlay_alpha \(0.25; now 0.5\)"):
        predict.main(asked)


def test_a_call_stops_when_another_one_takes_its_folder_before_its_first_image(photos, monkeypatch):
    """It starts while the first one predicts its first image."""
    first = thresholds.results_of

    def results(images):
        monkeypatch.setattr(thresholds, "results_of", first)
        predict.main(job(skip_bad=True), PictureConfig(overlay_alpha=0.25))
        return first(images)

    monkeypatch.setattr(thresholds, "results_of", results)
    with pytest.raises(UserError, match="Another call of predict with another model or settings"):
        predict.main(job(skip_bad=True), PictureConfig(overlay_alpha=0.75))
    image = np.asarray(Image.open(photos / "a.png")).astype(int)
    colors = np.array([c.color for c in thresholds.CLASSES])[
        np.asarray(Image.open("out/index/a.png"))
    ]
    overlay = np.asarray(Image.open("out/overlay/a.png"))
    np.testing.assert_allclose(overlay, 0.75 * image + 0.25 * colors, atol=1)


def test_summaries_hold_what_earlier_calls_finished_too(photos):
    (photos.parent / "more").mkdir()
    Image.new("RGB", (7, 5), "white").save(photos.parent / "more/d.png")
    predict.main(job(skip_bad=True), SUMMARIES)
    for _ in range(2):  # the second time, all is finished
        predict.main(job(input=("more",)), SUMMARIES)
        expected = {"a.png": light(photos / "a.png"), "c.tif": light(photos / "c.tif")}
        assert areas() == expected | {"d.png": 35}
        coco = json.loads((photos.parent / "out/coco.json").read_text())
        assert [image["file_name"] for image in coco["images"]] == ["a.png", "c.tif", "d.png"]


def everything_below(folder):
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*.*")}


def test_nothing_tells_of_an_earlier_state_of_an_image(photos, capsys):
    """Where the second call has fewer flags; what still holds, or was changed by hand, stays."""
    more = PictureConfig(
        legend=True,
        save_areas=True,
        save_probabilities=("npz",),
        save_polygons=("coco", "labelme"),
    )
    out = photos.parent / "out"
    predict.main(job(skip_bad=True), more)
    before = everything_below(out)
    (out / "labelme/a.json").write_text("corrected")
    predict.main(job(skip_bad=True))
    (out / "overlay/c.png").unlink()  # predicted again, as before
    predict.main(job(skip_bad=True))
    assert everything_below(out) == before and not capsys.readouterr().err

    Image.new("RGB", (30, 20), "white").save(photos / "a.png")
    predict.main(job(skip_bad=True))
    gone = {"areas.csv", "coco.json", "legend/a.png", "probabilities/a.npz"}
    assert everything_below(out) == before - gone
    assert (out / "labelme/a.json").read_text() == "corrected"
    assert "out/areas.csv told of the earlier prediction of a and is rem" in capsys.readouterr().err
    predict.main(job(skip_bad=True), SUMMARIES)  # the way out
    assert areas() == {"a.png": 600, "c.tif": light(photos / "c.tif")}


def test_a_shard_leaves_the_summaries_of_the_others(photos):
    (photos / "b.jpg").unlink()  # the shards are a, then c
    for shard in ("", "1/2", "2/2"):
        predict.main(job(shard=shard), SUMMARIES)
    Image.new("RGB", (30, 20), "white").save(photos / "a.png")
    predict.main(job(shard="1/2"))
    left = {path.name for path in (photos.parent / "out").glob("*.*")}
    assert left == {"areas-2-of-2.csv", "coco-2-of-2.json"}


def test_each_shard_has_summaries_of_its_own_and_a_call_without_has_all(photos):
    """The shards of a, b, c: a and c, then b, which is bad at first."""
    predict.main(job(shard="1/2"), SUMMARIES)
    with pytest.raises(UserError, match="photos/b.jpg"):
        predict.main(job(shard="2/2"), SUMMARIES)
    assert not os.path.exists("out/areas-2-of-2.csv")  # of no image
    Image.new("RGB", (4, 3), "white").save(photos / "b.jpg")
    predict.main(job(shard="2/2"), SUMMARIES)
    first = {"a.png": light(photos / "a.png"), "c.tif": light(photos / "c.tif")}
    assert areas("out/areas-1-of-2.csv") == first
    assert areas("out/areas-2-of-2.csv") == {"b.jpg": 12}
    assert not os.path.exists("out/areas.csv")
    predict.main(job(), SUMMARIES)
    assert areas() == first | {"b.jpg": 12}


def test_summaries_leave_out_what_is_not_the_prediction_any_more(photos):
    predict.main(job(skip_bad=True), SUMMARIES)
    Image.new("L", (30, 20)).save("out/index/a.png")
    predict.main(job(input=("photos/c.tif",)), SUMMARIES)
    assert areas() == {"c.tif": light(photos / "c.tif")}


@pytest.mark.parametrize("shard", ["", "1/2"])
def test_of_two_images_of_one_name_the_last_one_counts(photos, shard):
    """Whichever lists they are noted in: the outputs are compared."""
    for name, color in (("one", "black"), ("two", "white")):
        (photos.parent / name).mkdir()
        Image.new("RGB", (8, 8), color).save(photos.parent / f"{name}/x.png")
    one, two = job(input=("one",), shard=shard), job(input=("two",))
    for _ in range(2):
        predict.main(one)
        assert np.asarray(Image.open("out/index/x.png")).max() == 0
        predict.main(two)
        assert np.asarray(Image.open("out/index/x.png")).min() == 1


def test_polygons_drawn_by_hand_are_never_replaced(photos):
    (photos.parent / "labelme").mkdir()
    (photos.parent / "labelme/a.json").write_text("drawn")
    asked = job(skip_bad=True, output_dir=".")
    with pytest.raises(UserError, match="^labelme/a.json was not written by.*; move it elsewhere"):
        predict.main(asked, LABELME)
    assert sorted(os.listdir()) == ["labelme", "photos"]
    assert (photos.parent / "labelme/a.json").read_text() == "drawn"
    os.rename("labelme/a.json", "mine.json")  # the way out
    predict.main(asked, LABELME)
    predict.main(asked, LABELME)

    Image.new("RGB", (9, 9)).save(photos / "c.tif")  # its own polygons may be replaced
    predict.main(asked, LABELME)
    assert json.loads((photos.parent / "labelme/c.json").read_text())["imageWidth"] == 9
    (photos.parent / "labelme/c.json").write_text("corrected")
    with pytest.raises(
        UserError, match="labelme/c.json was not written by predict, or was changed"
    ):
        predict.main(asked, LABELME)
    predict.main(asked)  # without polygons, it goes on
    predict.main(job(skip_bad=True, output_dir="other"), LABELME)  # the other way out
    assert (photos.parent / "labelme/c.json").read_text() == "corrected"


def test_tables_of_others_are_never_replaced(photos):
    (photos.parent / "coco.json").write_text("drawn")
    with pytest.raises(UserError, match="^coco.json was not written by"):
        predict.main(job(skip_bad=True, output_dir="."), SUMMARIES)
    assert sorted(os.listdir()) == ["coco.json", "photos"]


@pytest.mark.parametrize("fails_at", ["labelme/a.json", "areas.csv"])
def test_a_call_that_stopped_while_writing_can_be_repeated(photos, monkeypatch, fails_at):
    """After the file was written, and before anything else was noted."""
    write = files.write

    def killed(path, content, **how):
        write(path, content, **how)
        if path.as_posix().endswith(fails_at):
            raise KeyboardInterrupt

    wanted = PictureConfig(save_areas=True, save_polygons=("labelme",))
    with monkeypatch.context() as patched:
        patched.setattr(prediction_files.files, "write", killed)
        with pytest.raises(KeyboardInterrupt):
            predict.main(job(skip_bad=True), wanted)
    predict.main(job(skip_bad=True), wanted)
    assert written() == ["a.png", "c.png"] and set(areas()) == {"a.png", "c.tif"}


def test_labelme_needs_files(photos):
    for source in ("-", "http://127.0.0.1:9/a.png"):
        with pytest.raises(UserError, match=f"--input={source} is no file; save it first"):
            predict.main(job(input=(source,)), LABELME)
    assert not (photos.parent / "out").exists()


def test_an_image_that_is_refused_takes_no_other_of_its_group_with_it(photos, monkeypatch, capsys):
    """As with several GPUs, where three images are predicted together."""
    Image.new("RGB", (31, 5)).save(photos / "aa.png")
    together = functools.partial(thresholds.open_model, together=3)
    monkeypatch.setattr(asked_model, "open_model", together)
    predict.main(job(skip_bad=True))
    assert written() == ["a.png", "c.png"]
    out = capsys.readouterr().out
    assert "skipped: photos/aa.png: more than 30 pixels wide" in out and "a.png:" in out
    assert "out: 2 images." in out
