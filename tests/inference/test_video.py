"""Videos in and out; ffmpeg itself makes the clips, whose frames tell their number."""

import subprocess
import types
from fractions import Fraction

import numpy as np
import pytest
from PIL import Image

from deeplab_tf import predict
from deeplab_tf.config.pictures import USUAL, PictureConfig
from deeplab_tf.config.programs import PredictConfig
from deeplab_tf.data.catalog import LabelClass
from deeplab_tf.evaluation.predictor import RefusedImage
from deeplab_tf.inference import video
from deeplab_tf.jobs import asked_model, paths
from deeplab_tf.messages import UserError

CLASSES = (LabelClass("dark", (0, 0, 0)), LabelClass("light", (250, 40, 130)))
FRAMES = 12


def frame(number, size=(48, 64)):
    """Light on the left of a border that moves with the number, dark on its right."""
    pixels = np.full([*size, 3], 30, np.uint8)
    pixels[:, : 4 * (number + 1)] = 220
    return pixels


def ffmpeg(*arguments, pixels=None):
    imageio_ffmpeg = pytest.importorskip("imageio_ffmpeg", reason="the extra `video`")
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-y", *map(str, arguments)]
    subprocess.run(command, input=pixels, check=True)


def write_clip(path, *more, size=(48, 64), rate="30000/1001", count=FRAMES, codec="libx264"):
    """A clip of `count` frames; `more` are arguments of its file."""
    pixels = b"".join(frame(number, size).tobytes() for number in range(count))
    raw = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{size[1]}x{size[0]}", "-r", rate]
    sound = ["-f", "lavfi", "-i", f"sine=duration={count * 1001 / 30000:.3f}"]
    has_sound = "-c:a" in more
    out = ["-c:v", codec, "-pix_fmt", "yuv444p", *more]
    ffmpeg(*raw, "-i", "pipe:0", *(sound if has_sound else []), *out, path, pixels=pixels)
    return path


def threshold(images):
    if any(image.shape[0] > 100 for image in images):
        raise RefusedImage("more than 100 pixels high")
    return [((image[..., 0] > 127).astype(np.uint8), None) for image in images]


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Predicts a clip and returns what was written, looked at, with its frames."""
    monkeypatch.chdir(tmp_path)
    counts = []

    def counted(images):
        counts.append(len(images))
        return threshold(images)

    model = asked_model.Model(counted, CLASSES, {"model": "threshold"}, together=2)
    monkeypatch.setattr(asked_model, "open_model", lambda job, **wanted: model)

    def predicted(path, pictures=USUAL, **values):
        job = PredictConfig(input=(str(path),), output_dir="out", checkpoint_dir="run", **values)
        predict.main(job, pictures)
        found = video.look_at(tmp_path / "out/overlay" / f"{path.stem}.mp4")
        return found, list(video.frames_of(found, []))

    predicted.counts = counts
    return predicted


def test_an_overlay_video_has_the_length_size_rate_and_colours(run, tmp_path, capsys):
    clip = write_clip(tmp_path / "clip.mp4")
    found, frames = run(clip)
    assert (found.rate, found.is_variable, found.audio) == (Fraction(30000, 1001), False, "")
    assert found.frames == len(frames) == FRAMES and sum(run.counts) == FRAMES
    assert sorted(path.name for path in (tmp_path / "out/overlay").iterdir()) == ["clip.mp4"]
    for number, pixels in enumerate(frames[3:], start=3):
        border = 4 * (number + 1)
        # Half image, half colour: light (220 + 250, 220 + 40, 220 + 130) / 2, dark 30 / 2; the
        # compression smears some pixels next to the border.
        light, dark = pixels[8:-8, 2 : border - 5], pixels[8:-8, border + 5 : -2]
        np.testing.assert_allclose(light.mean((0, 1)), (235, 130, 175), atol=6)
        np.testing.assert_allclose(dark.mean((0, 1)), (15, 15, 15), atol=6)
    printed = capsys.readouterr().out
    assert "clip.mp4: 12 frames of 64x48 pixels, 29.97 frames/s; " in printed

    run(clip)
    assert sum(run.counts) == FRAMES and "1 of them by an earlier call" in capsys.readouterr().out


@pytest.mark.parametrize("size", [(49, 64), (48, 65), (49, 65), (2, 2), (1, 1)])
def test_sizes_are_kept_odd_ones_too(run, tmp_path, size):
    _, frames = run(write_clip(tmp_path / "clip.mkv", size=size, codec="ffv1", count=3))
    assert [pixels.shape for pixels in frames] == [(*size, 3)] * 3


@pytest.mark.parametrize(
    ("name", "rate", "count"),
    [
        ("a.mkv", "30000/1001", 40),
        ("a.mkv", "24", 5),
        ("a.mkv", "30", 3),
        ("a.avi", "12.5", 7),
        ("a.mp4", "60", 1),
        ("a.mpg", "24000/1001", 30),
    ],
)
def test_rates_are_exact_where_the_container_rounds_them(run, tmp_path, name, rate, count):
    codec = {"avi": "mpeg4", "mpg": "mpeg2video"}.get(name[2:], "libx264")
    more = () if codec == "libx264" else ("-pix_fmt", "yuv420p")
    clip = write_clip(tmp_path / name, *more, rate=rate, count=count, codec=codec)
    found, frames = run(clip)
    assert (found.rate, len(frames)) == (Fraction(rate), count)


def test_a_variable_rate_keeps_its_length_and_repeats_no_prediction(run, tmp_path, capsys):
    """Every fourth frame is missing, so the one before is shown twice."""
    drop = "select='not(eq(mod(n,4),2))'"
    clip = write_clip(tmp_path / "a.mp4", "-vf", drop, "-fps_mode", "vfr", rate="30")
    found, frames = run(clip)
    assert found.rate == 30 and not found.is_variable and abs(len(frames) - FRAMES) <= 1
    assert sum(run.counts) == FRAMES - 3
    np.testing.assert_allclose(frames[2].astype(int), frames[1], atol=12)
    assert "30 frames/s, where the file's rate varies" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "codec", "kept"), [("a.mp4", "aac", "kept"), ("a.mkv", "pcm_s16le", "converted")]
)
def test_audio_is_kept(run, tmp_path, capsys, name, codec, kept):
    found, frames = run(write_clip(tmp_path / name, "-c:a", codec))
    assert found.audio == "aac" and len(frames) == FRAMES
    assert f"audio {kept}" in capsys.readouterr().out


def test_a_turned_video_is_upright(run, tmp_path):
    write_clip(tmp_path / "flat.mp4")
    ffmpeg("-display_rotation", 90, "-i", tmp_path / "flat.mp4", "-c", "copy", tmp_path / "up.mp4")
    _, frames = run(tmp_path / "up.mp4")
    assert frames[0].shape == (64, 48, 3) and len(frames) == FRAMES


@pytest.mark.parametrize(("degrees", "aspect"), [(90, (3, 4)), (180, (4, 3)), (-90, (3, 4))])
def test_pixels_that_are_not_square_are_turned_along(run, tmp_path, degrees, aspect):
    write_clip(tmp_path / "flat.mp4", "-vf", "setsar=4/3", count=2)
    turned = ["-display_rotation", degrees, "-i", tmp_path / "flat.mp4"]
    ffmpeg(*turned, "-c", "copy", tmp_path / "up.mp4")
    found, frames = run(tmp_path / "up.mp4")
    assert found.aspect == Fraction(*aspect)
    assert frames[0].shape == ((48, 64, 3) if degrees == 180 else (64, 48, 3))


@pytest.mark.parametrize(
    ("codec", "name", "cut", "count"),
    [
        # Keyframes are frames 0, 10, 20, 30; the cut at 1.3 s of 10 frames/s is frame 13. An edit
        # list hides frames 10 to 12.
        ("-bf 0 -c:v libx264", "a.mp4", "-ss 1.3 -i SOURCE", 27),
        ("-bf 2 -c:v libx264", "a.mov", "-ss 1.3 -i SOURCE", 27),
        ("-bf 3 -x264-params open-gop=1 -c:v libx264", "a.mp4", "-ss 1.3 -i SOURCE", 27),
        # Frames before the first keyframe at or after the cut, which refer to others before them.
        ("-bf 2 -c:v libx264", "a.mkv", "-i SOURCE -ss 1.3 -copyinkf", 0),
        ("-bf 0 -c:v libx264", "a.ts", "-i SOURCE -ss 1.3 -copyinkf", 0),
        # Frames that are shown before the first keyframe, but come after it.
        ("-bf 3 -c:v libx265 -x265-params log-level=none:open-gop=1", "a.ts", "-i SOURCE -ss 1", 0),
    ],
)
def test_a_clip_that_was_cut_out_is_whole(tmp_path, codec, name, cut, count):
    """Cut without encoding it again, so that there are more packets than frames to show."""
    kind = ["-pix_fmt", "yuv420p", "-g", 10, *codec.split()]
    source = write_clip(tmp_path / "source.mp4", *kind, rate="10", count=40, size=(48, 200))
    clip = tmp_path / name
    ffmpeg(*[source if word == "SOURCE" else word for word in cut.split()], "-c", "copy", clip)
    found, damages = video.look_at(clip), []
    frames = list(video.frames_of(found, damages))
    assert not damages and len(frames) == found.frames
    assert len(frames) == count or (count == 0 and 20 <= len(frames) < 40)


def test_a_damaged_clip_that_was_cut_out_is_called_damaged(run, tmp_path, capsys):
    """Also if only a frame is damaged that is not shown, since others refer to it."""
    source = write_clip(tmp_path / "source.mp4", "-g", 10, "-bf", 0, rate="10", count=40)
    ffmpeg("-ss", 1.3, "-i", source, "-c", "copy", tmp_path / "clip.mp4")
    content = bytearray((tmp_path / "clip.mp4").read_bytes())
    begin = content.index(b"mdat") + 4
    length = int.from_bytes(content[begin : begin + 4], "big")
    content[begin + 4 : begin + 4 + length] = bytes(length)
    (tmp_path / "clip.mp4").write_bytes(content)
    run(tmp_path / "clip.mp4")
    assert "clip.mp4 is cut or damaged" in capsys.readouterr().err


def test_a_late_start_at_a_variable_rate_is_no_part_of_the_frames(tmp_path):
    """The audio begins 1 s before the video, which `writing` delays by as much."""
    drop = ("-vf", "select='not(eq(mod(n,4),2))',setpts=PTS+1/TB", "-fps_mode", "vfr")
    found = video.look_at(write_clip(tmp_path / "a.mp4", *drop, "-c:a", "aac", rate="30"))
    assert found.is_variable and found.start == pytest.approx(1, abs=0.05)
    frames = list(video.frames_of(found, []))
    assert abs(len(frames) - FRAMES) <= 1


def test_of_a_cut_file_the_whole_frames_are_predicted(run, tmp_path, capsys):
    pixels = np.random.default_rng(0).integers(0, 256, [20, 48, 64, 3], np.uint8)
    raw = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", "64x48", "-r", "10", "-i", "pipe:0"]
    ffmpeg(*raw, "-c:v", "mpeg4", "-g", 1, "-movflags", "faststart", tmp_path / "whole.mp4",
           pixels=pixels.tobytes())  # fmt: skip
    content = (tmp_path / "whole.mp4").read_bytes()
    (tmp_path / "cut.mp4").write_bytes(content[: len(content) * 6 // 10])
    _, whole = run(tmp_path / "whole.mp4")
    _, cut = run(tmp_path / "cut.mp4")
    assert len(whole) == 20 and 9 <= len(cut) <= 12  # frames of noise are equally long
    for one, other in zip(whole, cut, strict=False):
        np.testing.assert_allclose(one.astype(int), other, atol=80)
    warning = capsys.readouterr().err
    assert "cut.mp4 is cut or damaged" in warning and f"the {len(cut)} frames that are" in warning


def test_what_is_no_video_is_refused_and_leaves_nothing(run, tmp_path):
    write_clip(tmp_path / "clip.mp4")
    (tmp_path / "end.mp4").write_bytes((tmp_path / "clip.mp4").read_bytes()[:900])
    (tmp_path / "empty.mp4").write_bytes(b"")
    (tmp_path / "text.mp4").write_text("Not a film.\n" * 9)
    ffmpeg("-f", "lavfi", "-i", "sine=duration=1", tmp_path / "sound.mp4")
    playlist = f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{tmp_path}/clip.mp4\n"
    (tmp_path / "list.mp4").write_text(playlist)
    write_clip(tmp_path / "high.mp4", size=(102, 64))
    for name, sentence in {
        "end": "end.mp4 cannot be read as a video: it is cut off, or no video at all; get it again",
        "empty": "empty.mp4 is empty; get it again",
        "text": "text.mp4 cannot be read as a video: it is cut off, or no video at all; get it",
        "sound": "sound.mp4 holds no video; give another file",
        "list": "list.mp4 cannot be read as a video",
        "high": "high.mp4: more than 100 pixels high",
    }.items():
        with pytest.raises(UserError, match=sentence):
            run(tmp_path / f"{name}.mp4")
    assert not (tmp_path / "out/overlay").exists() or not [*(tmp_path / "out/overlay").iterdir()]


def test_images_and_videos_share_a_call(run, tmp_path, capsys):
    write_clip(tmp_path / "clip.mp4", count=2)
    Image.fromarray(frame(3)).save(tmp_path / "photo.png")
    job = {"output_dir": "out", "checkpoint_dir": "run"}
    predict.main(PredictConfig(input=("photo.png", "*.mp4"), **job))
    assert (tmp_path / "out/index/photo.png").is_file()
    assert (tmp_path / "out/overlay/clip.mp4").is_file()
    with pytest.raises(UserError, match="clip.mp4 is an input that would be replaced"):
        predict.main(PredictConfig(input=("out/overlay/clip.mp4",), **job))


def test_of_the_pictures_settings_a_video_takes_the_opacity_alone(run, tmp_path):
    """At opacity 1 every pixel has the colour of its class, but for what the codec loses."""
    clip = write_clip(tmp_path / "clip.mp4", count=2)
    _, frames = run(clip, PictureConfig(overlay_alpha=1.0))
    for number in range(2):
        light = frame(number)[..., :1] > 127
        expected = np.where(light, CLASSES[1].color, CLASSES[0].color)
        assert np.abs(frames[number].astype(int) - expected).mean() < 12
    with pytest.raises(UserError, match=r"another overlay_alpha \(1.0; now 0.5\); give"):
        run(clip)
    with pytest.raises(UserError, match="^--legend is for images, but .*clip.mp4 is a video.*hout"):
        run(clip, PictureConfig(legend=True))


def test_without_the_extra_it_is_said_before_anything_is_computed(tmp_path, monkeypatch):
    monkeypatch.setattr(video, "imageio_ffmpeg", None)
    (tmp_path / "clip.mp4").write_bytes(b"x")
    job = {"input": (str(tmp_path / "clip.mp4"),), "output_dir": str(tmp_path / "out")}
    with pytest.raises(UserError, match=r"clip.mp4 is a video, .*; pip install imageio-ffmpeg"):
        paths.images_to_predict(PredictConfig(checkpoint_dir="run", **job))
    assert not (tmp_path / "out").exists()


def test_an_extra_without_a_program_is_told_too(tmp_path, monkeypatch):
    def nothing():
        raise RuntimeError("No ffmpeg exe could be found.")

    monkeypatch.setattr(video, "imageio_ffmpeg", types.SimpleNamespace(get_ffmpeg_exe=nothing))
    with pytest.raises(UserError, match="imageio-ffmpeg finds none here; install ffmpeg, or name"):
        video.require_ffmpeg(tmp_path / "clip.mp4")
