"""Which images predict takes, and what a bad one does; the model is a threshold."""

import contextlib
import functools
import http.server
import io
import os
import re
import shlex
import threading

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from deeplab_tf import files, predict
from deeplab_tf.config.pictures import PictureConfig
from deeplab_tf.config.programs import PredictConfig
from deeplab_tf.evaluation.predictor import Predictor
from deeplab_tf.inference import large_images, replicas
from deeplab_tf.jobs import asked_model
from deeplab_tf.messages import UserError
from deeplab_tf.runs import loaded_run
from tests.inference import runs
from tests.jobs import thresholds
from tests.jobs.thresholds import job, written
from tests.serving import cases


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


@pytest.mark.parametrize("name", ["film.MP4", "sub/film.mkv", "[1]/scene.npy"])
def test_a_folder_without_pictures_says_how_to_name_its_videos_and_arrays(tmp_path, name):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_bytes(b"x")
    with pytest.raises(
        UserError, match="names no image .left out: 1 .*, or --input=.* for"
    ) as said:
        files.find_images([str(tmp_path)], flag="input", takes_videos=True)
    (glob,) = shlex.split(re.search(r" or --input=(.*) for the", str(said.value))[1])
    listing = files.find_images([glob], flag="input", takes_videos=True)
    assert [path for _, path in listing.images] == [tmp_path / name]


@pytest.mark.parametrize("output", ["photos/predicted", "photos"])
def test_predictions_among_the_images_are_no_images(photos, capsys, output):
    """Whether this call wrote them or another one."""
    (photos / "sub/color").mkdir(parents=True)
    Image.new("RGB", (4, 3)).save(photos / "sub/color/own.png")
    legend = PictureConfig(legend=True)
    predict.main(job(skip_bad=True, output_dir="photos/sub/other"), legend)
    capsys.readouterr()
    for count in (5, 9):  # the second turn finds the first one's folders too
        predict.main(job(skip_bad=True, output_dir=output))
        assert (
            f"--input: 4 images; left out: {count} folders of predict." in capsys.readouterr().out
        )
    names = {path.stem for path in (photos.parent / output / "index").rglob("*.png")}
    assert names == {"a", "c", "own"}


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


def counting(monkeypatch, **values):
    """Replaces the model by one that notes the shapes it predicts; returns the list."""
    shapes = []

    def results(images):
        shapes.extend(image.shape[:2] for image in images)
        return thresholds.results_of(images)

    values = {"decides": {"model": "counted"}} | values
    model = asked_model.Model(results, thresholds.CLASSES, **values)
    monkeypatch.setattr(asked_model, "open_model", lambda job, **wanted: model)
    return shapes


def test_what_an_earlier_call_finished_is_skipped(photos, monkeypatch, capsys):
    """Until the image changes or one of its outputs is gone; bad images are tried again."""
    shapes = counting(monkeypatch)
    predict.main(job(skip_bad=True))
    assert len(shapes) == 2
    first = (photos.parent / "out/index/a.png").stat().st_mtime_ns
    capsys.readouterr()
    predict.main(job(skip_bad=True))
    out = capsys.readouterr().out
    assert len(shapes) == 2 and "out: 2 images, 2 of them by an earlier call." in out
    assert "skipped: photos/b.jpg" in out
    assert (photos.parent / "out/index/a.png").stat().st_mtime_ns == first

    Image.new("RGB", (7, 5)).save(photos / "a.png")
    (photos.parent / "out/overlay/c.png").unlink()
    predict.main(job(skip_bad=True))
    assert shapes[2:] == [(5, 7), (20, 30)]
    assert Image.open("out/index/a.png").size == (7, 5)


def test_an_image_of_the_same_name_elsewhere_is_another(photos, monkeypatch):
    shapes = counting(monkeypatch)
    predict.main(job(input=("photos/a.png",)))
    (photos.parent / "more").mkdir()
    status = (photos / "a.png").stat()
    (photos.parent / "more/a.png").write_bytes((photos / "a.png").read_bytes())
    os.utime(photos.parent / "more/a.png", ns=(status.st_atime_ns, status.st_mtime_ns))
    predict.main(job(input=("more/a.png",)))
    assert len(shapes) == 2


def test_what_a_killed_call_left_does_no_harm(photos, monkeypatch):
    shapes = counting(monkeypatch)
    predict.main(job(skip_bad=True))
    lines = (photos.parent / "out/finished/all.jsonl").read_bytes()
    (photos.parent / "out/finished/all.jsonl").write_bytes(lines[:-9])  # in its second line
    predict.main(job(skip_bad=True))
    assert len(shapes) == 3  # only the image of the cut line again
    predict.main(job(skip_bad=True))
    assert len(shapes) == 3


def test_another_model_is_refused(photos, monkeypatch):
    predict.main(job(skip_bad=True))
    before = (photos.parent / "out/index/a.png").read_bytes()
    counting(monkeypatch, decides={"model": "counted"})
    with pytest.raises(
        UserError, match=r"=out holds predictions with another model \(threshold; now counted\); "
    ):
        predict.main(job(skip_bad=True))
    assert (photos.parent / "out/index/a.png").read_bytes() == before
    counting(monkeypatch, decides={"model": "threshold", "eval_scales": "0.5"})
    with pytest.raises(
        UserError, match=r"another eval_scales \(null; now 0.5\); give another fold"
    ):
        predict.main(job(skip_bad=True))
    predict.main(job(skip_bad=True, output_dir="other"))
    (photos.parent / "out/finished/model.json").write_text("{")
    with pytest.raises(UserError, match="model.json cannot be read, so nobody knows which model"):
        predict.main(job(skip_bad=True))


def test_a_model_that_may_change_predicts_all_again(photos, monkeypatch):
    shapes = counting(monkeypatch, may_skip=False)
    for _ in range(2):
        predict.main(job(skip_bad=True))
    assert len(shapes) == 4


def test_summaries_hold_only_what_one_model_predicted(photos, monkeypatch, capsys):
    """A server may have another model at the next call."""
    counting(monkeypatch, may_skip=False)
    with_areas = PictureConfig(save_areas=True)

    def areas():
        return open("out/areas.csv").read().splitlines()[1:]

    predict.main(job(input=("photos/a.png",)), with_areas)
    assert {line.split(",")[0] for line in areas()} == {"a.png"}
    predict.main(job(input=("photos/c.tif",)), with_areas)
    assert {line.split(",")[0] for line in areas()} == {"c.tif"}
    assert "Not in areas.csv of out: 1 image of earlier calls" in capsys.readouterr().err


def test_shards_are_disjoint_and_together_everything(photos, monkeypatch, capsys):
    for number in range(7):
        Image.new("RGB", (number + 1, 3)).save(photos / f"n{number}.png")
    shapes = counting(monkeypatch)
    written_by = []
    for number in (1, 2, 3):
        predict.main(job(skip_bad=True, shard=f"{number}/3"))
        written_by.append(set(written()) - set().union(*written_by))
    # Ten names in order, a b c n0 ... n6; b is bad, and every third belongs to a shard.
    assert written_by == [
        {"a.png", "n0.png", "n3.png", "n6.png"},
        {"n1.png", "n4.png"},
        {"c.png", "n2.png", "n5.png"},
    ]
    assert len(shapes) == 9 and "of shard 2/3" in capsys.readouterr().out
    predict.main(job(skip_bad=True))
    assert len(shapes) == 9  # all were finished by the shards

    predict.main(job(input=("photos/a.png",), shard="2/2", output_dir="few"))
    assert "no image is in it" in capsys.readouterr().out
    for wrong in ("0/3", "4/3", "3", "1/", "1/0", "a/b", "-1/3"):
        with pytest.raises(UserError, match=f"--shard={wrong} is not possible; allowed: K/N"):
            job(shard=wrong)


def test_a_palette_png_is_predicted_by_its_colours(photos):
    pixels = np.full([20, 30, 3], (200, 10, 60), np.uint8)
    pixels[:9] = (90, 250, 0)
    Image.fromarray(pixels).convert("P", palette=Image.Palette.ADAPTIVE).save(photos / "p.png")
    assert Image.open(photos / "p.png").mode == "P"
    predict.main(job(input=("photos/p.png",)))
    np.testing.assert_array_equal(np.asarray(Image.open("out/index/p.png")), pixels[..., 0] > 127)


@pytest.fixture
def web(photos):
    """The address of a server of the photos."""
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(photos))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


def test_images_of_the_web_are_predicted_each_time(web, photos, monkeypatch, capsys):
    shapes = counting(monkeypatch)
    sources = (f"{web}/a.png?size=full", f"{web}/b.jpg", f"{web}/none.png", "photos/c.tif")
    for times in (1, 2):
        predict.main(job(input=sources, skip_bad=True))
        assert written() == ["a.png", "c.png"]
        assert len(shapes) == 1 + times  # the file is skipped the second time
    expected = np.asarray(Image.open(photos / "a.png"))[..., 0] > 127
    np.testing.assert_array_equal(np.asarray(Image.open("out/index/a.png")), expected)
    out = capsys.readouterr().out
    assert f"skipped: {web}/b.jpg cannot be decoded" in out
    assert f"skipped: {web}/none.png answers 404; fetch the file by hand and give its path" in out
    with pytest.raises(UserError, match=f"{web}/ is the address of no file"):
        predict.main(job(input=(f"{web}/",)))
    with pytest.raises(UserError, match="photos/a.png and http.* would both be written as a; "):
        predict.main(job(input=("photos/a.png", f"{web}/a.png")))


def test_standard_input_is_one_image(photos, monkeypatch):
    def piped(content):
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(content)))

    piped((photos / "a.png").read_bytes())
    predict.main(job(input=("-",)))
    expected = np.asarray(Image.open(photos / "a.png"))[..., 0] > 127
    np.testing.assert_array_equal(np.asarray(Image.open("out/index/stdin.png")), expected)
    piped(b"")
    with pytest.raises(UserError, match="--input=- has nothing to read: pipe an image file in"):
        predict.main(job(input=("-",)))
    piped(b"no image")
    with pytest.raises(UserError, match="standard input cannot be decoded: it is not an image"):
        predict.main(job(input=("-",)))


def test_several_devices_share_the_images_and_predict_the_same(tmp_path, monkeypatch):
    """Five images of different sizes on two replicas, so that one replica is idle in the end."""
    run = runs.write(tmp_path / "run", steps=(100,))
    (tmp_path / "photos").mkdir()
    for number, size in enumerate([(45, 60), (31, 40), (60, 45), (45, 60), (20, 70)]):
        image = Image.fromarray(cases.pictures(1, size, seed=number)[0])
        image.save(tmp_path / f"photos/{number}.png")
    places = {"input": (str(tmp_path / "photos"),), "checkpoint_dir": str(run)}
    predict.main(PredictConfig(output_dir=str(tmp_path / "one"), **places))
    two = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    monkeypatch.setattr(asked_model, "on_this_host", lambda number: two)
    predict.main(PredictConfig(output_dir=str(tmp_path / "two"), **places))
    for number in range(5):
        one, other = (
            np.asarray(Image.open(tmp_path / folder / f"index/{number}.png"))
            for folder in ("one", "two")
        )
        assert len(np.unique(one)) > 1
        np.testing.assert_array_equal(one, other)


def test_an_image_above_the_padded_size_is_listed_and_the_others_are_predicted(
    tmp_path, monkeypatch, capsys
):
    """On two replicas, so that it comes together with another one."""
    runs.write(tmp_path / "run")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    for number, size in enumerate([(45, 60), (45, 70), (45, 60)]):
        Image.fromarray(cases.pictures(1, size, seed=number)[0]).save(f"photos/{number}.png")
    two = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    monkeypatch.setattr(asked_model, "on_this_host", lambda number: two)
    flags = ["--checkpoint_dir=run", "--input=photos", "--output_dir=out", "--skip_bad"]
    monkeypatch.setattr("sys.argv", ["predict", *flags, "--eval_crop_size=65,65"])
    with contextlib.suppress(SystemExit):
        predict.run()
    assert written() == ["0.png", "2.png"]
    assert "skipped: photos/1.png: An image has 45x70 pixels, more than" in capsys.readouterr().out


@pytest.mark.slow
def test_several_devices_return_the_probabilities_of_one(tmp_path):
    """Three images on two replicas; and in windows, if they are large."""
    predictor = Predictor(cases.model())
    images = [cases.pictures(1, size)[0] for size in ((45, 60), (31, 40))]
    two = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    with two.scope():
        copied = runs.write(tmp_path / "run")
        loaded, experiment = loaded_run.load_asked(str(copied), "")
    of_two = Predictor(loaded.model)
    predict_both = replicas.predict_on(two, of_two, with_probabilities=True)
    windows = large_images.with_windows(
        predict_both,
        of_two,
        loaded.model,
        experiment.data,
        experiment.eval,
        max_pixels=64 * 64,
        with_probabilities=True,
    )
    large = cases.pictures(1, (70, 150), seed=1)[0]
    sliding = Predictor(cases.model(), window_size=(64, 64), window_stride=(43, 43))
    for found, by, image in (
        *zip(predict_both(images), [predictor] * 2, images, strict=True),
        *zip(windows([images[0], large]), [predictor, sliding], [images[0], large], strict=True),
    ):
        wanted = by.probabilities(image[np.newaxis])[0].numpy()
        np.testing.assert_allclose(found[1], wanted, atol=1e-5)
        np.testing.assert_array_equal(found[0], found[1].argmax(-1))


def test_another_checkpoint_is_refused_and_a_moved_one_is_not(tmp_path):
    run = runs.write(tmp_path / "run", steps=(100, 200))
    Image.fromarray(cases.pictures(1)[0]).save(tmp_path / "a.png")
    places = {"input": (str(tmp_path / "a.png"),), "output_dir": str(tmp_path / "out")}
    predict.main(PredictConfig(checkpoint_dir=str(run), checkpoint="100", **places))
    os.rename(run, tmp_path / "moved")  # it is still the same model
    moved = str(tmp_path / "moved")
    predict.main(PredictConfig(checkpoint_dir=moved, checkpoint="100", **places))
    with pytest.raises(UserError, match=r"another model \(model.ckpt-100, SHA-256 .*ckpt-200, SHA"):
        predict.main(PredictConfig(checkpoint_dir=moved, **places))
