"""Reads and writes videos with ffmpeg, an external program that the extra `video` installs.

imageio-ffmpeg and not OpenCV: its wheel fits every Python and any NumPy, it reads what phones and
cameras write, and it keeps the audio. This module does not import TensorFlow.
"""

import collections
import contextlib
import itertools
import os
import re
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import IO

import numpy as np

from deeplab_tf import files
from deeplab_tf.data import decoding
from deeplab_tf.messages import UserError, shortened

try:
    import imageio_ffmpeg
except ImportError:  # the extra `video` is not installed
    imageio_ffmpeg = None

# A file from strangers may be a list of other files or addresses, whatever its name says.
_FORMATS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpeg,mpegts,mpegvideo,asf,flv"
_ONLY_VIDEO_FILES = ("-protocol_whitelist", "file", "-format_whitelist", _FORMATS)
# What ffmpeg says of a file without the tables of an MP4, and of one of no format that it knows.
_NO_VIDEO = ("moov atom not found", "Invalid data found when processing input")
_COPIED_AUDIO = ("aac", "mp3", "ac3", "eac3", "alac")  # what players expect in an MP4
_CLOSE = Fraction(1, 2000)  # seconds, less than between two frames: times are rounded
_UNKNOWN = -(2**63)  # AV_NOPTS_VALUE of libavutil/avutil.h
_KEY, _DISCARD = 1, 4  # AV_PKT_FLAG_* of libavcodec/packet.h
_JITTER = 0.01  # a rate counts as constant if the gaps between frames vary by at most this
_HIGHEST_RATE = 60  # frames/s of a video that had no constant rate
_USUAL_RATES = tuple(map(Fraction, (24, 25, 30, 48, 50, 60)))
_PLAIN_RATE = 25  # of a single frame that does not say how long it is shown


@dataclass(frozen=True)
class Video:
    """What a video file says of itself.

    frames: number of frames that players show, if the file is undamaged; an estimate if
      is_variable.
    rate: frames/s of the video that is written.
    is_variable: whether the file has no constant rate; then frames are repeated or left out, so
      that the length stays the same.
    start: seconds before the first frame. aspect: a pixel's width divided by its height, of frames
      turned upright. audio: codec of the first audio track; "" if there is none.
    excused: what ffmpeg says of packets before the first frame that belong to frames which were cut
      away.
    """

    path: Path
    frames: int
    rate: Fraction
    is_variable: bool
    start: Fraction
    aspect: Fraction
    audio: str
    excused: tuple[str, ...] = ()

    def described(self) -> str:
        """Returns rate and audio in words."""
        text = f"{float(self.rate):.6g} frames/s"
        if self.is_variable:
            text += ", where the file's rate varies"
        if self.audio:
            kept = self.audio in _COPIED_AUDIO
            text += ", audio " + ("kept" if kept else f"converted from {self.audio} to AAC")
        return text


def require_ffmpeg(path: Path) -> None:
    """Raises UserError, naming the video, if the extra `video` or its program is missing."""
    if imageio_ffmpeg is None:
        raise UserError(
            f"--input={files.shown(path)} is a video, which needs ffmpeg; pip install "
            "imageio-ffmpeg"
        )
    try:
        _ffmpeg()
    except RuntimeError:  # where its wheel brings no program, and the system has none
        raise UserError(
            f"--input={files.shown(path)} is a video, which needs ffmpeg, and imageio-ffmpeg finds "
            "none here; install ffmpeg, or name its program in IMAGEIO_FFMPEG_EXE."
        ) from None


@dataclass(frozen=True)
class _Packet:
    """A compressed frame; times in ticks."""

    decoded: int
    shown: int
    duration: int
    flags: int


@dataclass(frozen=True)
class _Listing:
    """What ffmpeg's framecrc tells of a file's first video stream, and of its audio.

    aspect: as in `Video`, but not turned if the packets are listed as they are.
    audio: codec of the first audio track; "" if there is none. said: ffmpeg's messages.
    """

    packets: list[_Packet]
    tick: Fraction
    aspect: Fraction
    audio: str
    said: list[str]


def look_at(path: Path) -> Video:
    """Reads when the frames of a video are shown, and decodes only the first one.

    Raises:
      UserError: if it is not a video, or has no frames.
    """
    copied = ("-map", "0:v:0", "-map", "0:a:0?", "-c", "copy", "-copyinkf")
    listing = _listed(path, *copied)
    first = _first_frame(path, has_audio=bool(listing.audio))

    # An edit list says which frames are only there since others need them.
    packets = [packet for packet in listing.packets if not packet.flags & _DISCARD]
    if not packets:
        raise _unreadable(path, b"")
    cut_off = _without_reference(listing, first)
    lost = sum(not packet.flags & _DISCARD for packet in cut_off)
    # Some containers only say when frames are decoded; these times are as regular.
    is_told = all(packet.shown > _UNKNOWN for packet in packets)
    times = sorted(packet.shown if is_told else packet.decoded for packet in packets)
    times = times[min(lost, len(times) - 1) :]
    tick = listing.tick
    gaps = [after - before for before, after in itertools.pairwise(times)]
    jitter = max(gaps) - min(gaps) if gaps else 0
    is_variable = jitter > max(1, _JITTER * min(gaps, default=0))  # whole ticks are rounded
    rate = _rate(times, gaps, packets[-1].duration, tick, is_variable=is_variable, is_told=is_told)
    length = (times[-1] - times[0]) * tick
    return Video(
        path,
        frames=round(length * rate) + 1 if is_variable else len(times),
        rate=rate,
        is_variable=is_variable,
        start=max(first.packets[0].shown * first.tick if first else times[0] * tick, Fraction(0)),
        aspect=first.aspect if first else listing.aspect,
        audio=listing.audio,
        excused=tuple(first.said) if first and cut_off else (),
    )


def _listed(path: Path, *arguments: str) -> _Listing:
    """Returns what ffmpeg tells of the packets of an output; raises UserError if it has none."""
    # A line for each packet, with its time: https://ffmpeg.org/ffmpeg-formats.html#framecrc
    done = subprocess.run(
        # One thread, so that it decodes no more than it needs, and complains of no more.
        [*_reading(path, "-threads", "1"), *arguments, "-f", "framecrc", "-"],
        capture_output=True,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    text = done.stdout.decode(errors="replace")
    line = r"^0, *(-?\d+), *(-?\d+), *(\d+), *\d+, *0x\w+(?:, F=0x(\w+))?"
    packets = [
        _Packet(int(decoded), int(shown), int(duration), int(flags, 16) if flags else _KEY)
        for decoded, shown, duration, flags in re.findall(line, text, re.M)
    ]
    if not packets:
        raise _unreadable(path, done.stderr)

    def header(name: str, stream: int, otherwise: str) -> str:
        found = re.search(rf"^#{name} {stream}: (\S+)", text, re.M)
        return found[1] if found else otherwise

    over, under = map(int, header("sar", 0, "1/1").split("/"))
    return _Listing(
        packets,
        tick=Fraction(header("tb", 0, "1/1")),
        aspect=Fraction(over, under) if over > 0 and under > 0 else Fraction(1),
        audio=header("codec_id", 1, ""),
        said=_messages(done.stderr),
    )


def _first_frame(path: Path, *, has_audio: bool) -> _Listing | None:
    """Decodes the first frame that players show; None if there is none.

    It is turned upright, and so is its aspect.
    """
    times = ("-fps_mode", "passthrough", "-enc_time_base", "1:1000000")
    frame = ("-map", "0:v:0", "-frames:v", "1", *times)
    # Some containers count time from the first packet of what is read, so audio is read too.
    audio = ("-map", "0:a:0", "-c", "copy", "-frames:a", "1", "-f", "null", "-")
    try:
        return _listed(path, *(audio if has_audio else ()), *frame)
    except UserError:
        return None  # `frames_of` tells why


def _without_reference(listing: _Listing, first: _Listing | None) -> list[_Packet]:
    """Returns the packets before the first frame that lack what they refer to.

    A clip that was cut without encoding it again may begin with them, and players leave them out.
    They come before the first keyframe, or come after it and are shown before it (open GOP).
    """
    if first is None:
        return []
    begin = first.packets[0].shown * first.tick
    keys = [place for place, packet in enumerate(listing.packets) if packet.flags & _KEY]
    key = keys[0] if keys else len(listing.packets)
    end = begin
    if keys and listing.packets[key].shown > _UNKNOWN:
        end = min(begin, listing.packets[key].shown * listing.tick)
    return [
        packet
        for place, packet in enumerate(listing.packets)
        if packet.shown > _UNKNOWN
        and packet.shown * listing.tick < (begin if place < key else end) - _CLOSE
    ]


def _rate(
    times: list[int],
    gaps: list[int],
    shown: int,
    tick: Fraction,
    *,
    is_variable: bool,
    is_told: bool = True,
) -> Fraction:
    """Returns frames/s from the times of all frames, and the last one's duration, in ticks."""
    if not gaps:
        return 1 / (shown * tick) if shown else Fraction(_PLAIN_RATE)
    if is_variable:
        shortest = max(min(gaps), 1) * tick
        return min(1 / shortest, Fraction(_HIGHEST_RATE)).limit_denominator(1001)

    ticks = times[-1] - times[0]
    mean = len(gaps) / (ticks * tick)
    if min(gaps) == max(gaps) and tick != Fraction(1, 1000):
        return mean
    # Rounded times, such as the milliseconds of Matroska, allow a range of rates. The usual ones
    # are the likeliest of these, then another whole number, then the rates of NTSC.
    # Where a file tells no times, ffmpeg adds up durations and rounds each.
    rounded = max(gaps) - min(gaps) or 1
    rounded = rounded if is_told else max(rounded, len(gaps))
    slowest = len(gaps) / ((ticks + rounded) * tick)
    fastest = len(gaps) / (max(Fraction(ticks - rounded), Fraction(1, 2)) * tick)
    ntsc = Fraction(round(mean * Fraction(1001, 1000)) * 1000, 1001)
    rates = (*_USUAL_RATES, Fraction(round(mean)), ntsc)
    likely = [rate for rate in rates if slowest < rate < fastest]
    return likely[0] if likely else mean.limit_denominator(1001)


def frames_of(video: Video, damages: list[str]) -> Iterator[np.ndarray]:
    """Yields the frames, uint8 [H, W, 3], RGB, turned upright as the file says.

    Incomplete frames, such as the last one of a cut file, are left out. In the end, adds a sentence
    to `damages` if the file is damaged.
    """
    # ffmpeg would fill the time before the first frame, which `writing` leaves out too.
    steady = ["-vf", "setpts=PTS-STARTPTS", "-fps_mode", "cfr", "-r", str(video.rate)]
    timing = steady if video.is_variable else ["-fps_mode", "passthrough"]
    # PPM, since each frame then says how large it is.
    kind = ["-map", "0:v:0", *timing, "-f", "image2pipe", "-c:v", "ppm", "-pix_fmt", "rgb24", "-"]
    count = 0
    with (
        tempfile.TemporaryFile() as errors,
        _running([*_reading(video.path), *kind], errors) as run,
    ):
        assert run.stdout is not None
        while (frame := _next_ppm(run.stdout, video.path)) is not None:
            count += 1
            yield frame
        run.wait()
        errors.seek(0)
        said = list(
            collections.Counter(_messages(errors.read())) - collections.Counter(video.excused)
        )

    if said or (count < video.frames and not video.is_variable):
        reason = f" ({said[-1]})" if said else ""
        damages.append(
            f"{files.shown(video.path)} is cut or damaged{reason}: the {count} frames that are "
            "whole were predicted."
        )


def _next_ppm(stream: IO[bytes], path: Path) -> np.ndarray | None:
    """Reads the next frame; None at the end, or if only a part of a frame is left."""
    if stream.readline() != b"P6\n":
        return None
    width, height = map(int, stream.readline().split())
    stream.readline()  # 255
    if width * height > decoding.MAX_PIXELS:
        raise UserError(f"{files.shown(path)} has frames of {width}x{height} pixels, too many.")
    content = stream.read(width * height * 3)
    if len(content) < width * height * 3:
        return None
    return np.frombuffer(content, np.uint8).reshape(height, width, 3)


@contextlib.contextmanager
def writing(
    target: Path, video: Video, size: tuple[int, int]
) -> Iterator[Callable[[np.ndarray], None]]:
    """Writes a video with the rate and audio of another one, whole or not at all.

    Args:
      target: an .mp4 file.
      size: height and width of the frames.
    Yields:
      A function that writes the next frame, uint8 [H, W, 3], RGB.
    Raises:
      UserError: if it cannot be written.
    """
    height, width = size
    # H.264 halves the resolution of colour, which needs even sides.
    pixels = "yuv420p" if height % 2 == width % 2 == 0 else "yuv444p"
    aspect = f"{video.aspect.numerator}/{video.aspect.denominator}"
    colors = f"scale=out_color_matrix=bt709:out_range=tv,setsar={aspect},format={pixels}"
    tags = [f"-color{part}" for part in ("space", "_primaries", "_trc")]
    frames = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}"]
    frames += ["-r", str(video.rate), "-itsoffset", f"{float(video.start):.6f}", "-i", "pipe:0"]
    audio = [*_ONLY_VIDEO_FILES, "-i", _url(video.path)] if video.audio else []
    sound = "copy" if video.audio in _COPIED_AUDIO else "aac"
    outputs = ["-map", "0:v:0", *(["-map", "1:a:0", "-c:a", sound] if audio else [])]
    outputs += ["-vf", colors, *(part for tag in tags for part in (tag, "bt709"))]
    outputs += ["-c:v", "libx264", "-crf", "18", "-movflags", "+faststart", "-f", "mp4"]

    with files.building_folder(target.parent, ".video-") as building:
        unfinished = building / "video.mp4"
        command = [_ffmpeg(), "-v", "error", *frames, *audio, *outputs, _url(unfinished)]
        with tempfile.TemporaryFile() as errors, _running(command, errors) as run:
            assert run.stdin is not None

            def write(frame: np.ndarray) -> None:
                assert run.stdin is not None
                run.stdin.write(np.ascontiguousarray(frame).data)

            try:
                yield write
                run.stdin.close()
            except BrokenPipeError:
                run.wait()
            if run.wait():
                raise UserError(
                    f"{files.shown(target)} could not be written ({_last_line(errors)}); make room "
                    "or give another --output_dir."
                )
        os.replace(unfinished, target)


@contextlib.contextmanager
def _running(command: list[str], errors: IO[bytes]) -> Iterator[subprocess.Popen]:
    """Runs a program whose streams are pipes inside the context; ends it if it is left early."""
    run = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, bufsize=1 << 20
    )
    try:
        yield run
    finally:
        run.kill()
        for stream in (run.stdin, run.stdout):
            with contextlib.suppress(OSError):
                if stream:
                    stream.close()
        run.wait()


def _reading(path: Path, *how: str) -> list[str]:
    whole = ("-fflags", "+discardcorrupt")  # no frames that lack a part
    return [_ffmpeg(), "-v", "repeat+error", *how, *whole, *_ONLY_VIDEO_FILES, "-i", _url(path)]


def _ffmpeg() -> str:
    return imageio_ffmpeg.get_ffmpeg_exe()


def _url(path: Path) -> str:
    """Returns a path as ffmpeg takes it, which may hold colons or begin with a dash."""
    return f"file:{path.absolute()}"


def _unreadable(path: Path, errors: bytes) -> UserError:
    if path.is_file() and path.stat().st_size == 0:
        return UserError(f"{files.shown(path)} is empty; get it again.")
    text = errors.decode(errors="replace")
    if "matches no streams" in text:
        return UserError(f"{files.shown(path)} holds no video; give another file.")
    lines = [_plain(line) for line in text.splitlines() if line.strip()]
    reason = lines[0] if lines else "it has no frames"
    if any(said in text for said in _NO_VIDEO):
        reason = "it is cut off, or no video at all"
    return UserError(f"{files.shown(path)} cannot be read as a video: {reason}; get it again.")


def _last_line(errors: IO[bytes]) -> str:
    errors.seek(0)
    messages = _messages(errors.read())
    return messages[-1] if messages else ""


def _messages(errors: bytes) -> list[str]:
    lines = errors.decode(errors="replace").splitlines()
    return [_plain(line) for line in lines if line.strip()]


def _plain(line: str) -> str:
    """Returns a message of ffmpeg without the part that names its own objects."""
    return shortened(re.sub(r"^(\[[^\]]*\] ?)+", "", line.strip()).rstrip("."))
