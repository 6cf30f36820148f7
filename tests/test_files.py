import errno
import fcntl
import os
import stat
import struct
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from deeplab_tf import files
from deeplab_tf.files import reading
from deeplab_tf.messages import UserError


def touch(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x")


def found(listing):
    return [name for name, _ in listing.images]


def test_a_folder_is_listed_in_order_and_what_is_left_out_is_counted(tmp_path):
    taken = ["b.JPG", "a.tiff", "sub/c.webp", "sub/d.BMP", "x.jpg/e.png", "a b,[1].Tif"]
    touch(tmp_path, *taken)
    touch(tmp_path, "._b.jpg", ".hidden/f.png", "Thumbs.db", "__MACOSX/g.png", ".DS_Store")
    touch(tmp_path, "film.mp4", "one.txt", "sub/two.TXT", "LICENSE")
    listing = files.list_folder(tmp_path)
    # By path, capitals first; nothing of a hidden folder or of __MACOSX.
    assert found(listing) == ["a b,[1]", "a", "b", "sub/c", "sub/d", "x.jpg/e"]
    assert listing.note() == (
        "left out: 3 hidden (.*), 2 .txt, 1 .mp4, 1 Thumbs.db, 1 __MACOSX, 1 without ending"
    )


def test_links_to_folders_are_followed_and_loops_end(tmp_path):
    touch(tmp_path, "photos/a.png", "elsewhere/b.png")
    (tmp_path / "photos/link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere/back").symlink_to(tmp_path / "photos")
    (tmp_path / "photos/gone.jpg").symlink_to(tmp_path / "nowhere.jpg")
    listing = files.list_folder(tmp_path / "photos")
    assert found(listing) == ["a", "gone", "link/b"]  # a broken link fails where it is read
    assert listing.note() == "left out: 1 link that leads back"


def test_a_folder_is_passed_over_whichever_link_leads_to_it(tmp_path):
    touch(tmp_path, "photos/a.png", "masks/a.png", "masks/b.gif", "photos/c.gif")
    (tmp_path / "photos/link").symlink_to(tmp_path / "masks")
    listing = files.list_folder(tmp_path / "photos", without=tmp_path / "masks")
    assert found(listing) == ["a"] and listing.note() == "left out: 1 .gif"
    masks = files.list_folder(tmp_path / "photos/link", endings=(".png", ".gif"))
    assert found(masks) == ["a", "b"] and not masks.left_out


def test_equal_files_are_found_whatever_they_are_called(tmp_path):
    contents = {"a": b"one", "b": b"two", "c": b"one", "d": b"longer", "e": b"two", "f": b"one"}
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    paths = [tmp_path / name for name in (*contents, "gone", "a")]
    equal = {path.name: first.name for path, first in files.first_of_equals(paths).items()}
    assert equal == {"a": "a", "b": "b", "c": "a", "d": "d", "e": "b", "f": "a"}


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.jpg")
    assert files.list_folder(tmp_path).note() == "left out: 1 not a file"


def test_many_kinds_are_one_short_line(tmp_path):
    touch(tmp_path, *(f"a.{number:03d}" for number in range(20)))
    note = files.list_folder(tmp_path).note()
    assert note.endswith(", 12 others") and "\n" not in note


@pytest.mark.parametrize(
    ("part", "names"),
    [
        ("a[1].png", ["a[1]"]),  # exists, so it is no pattern
        ("a*.png", ["a1", "a[1]"]),
        ("my photo, 1.JPG", ["my photo, 1"]),
        ("notes.txt", ["notes"]),  # named itself: the decoder decides
        (".dot.png", [".dot"]),
        ("sub/*", ["c"]),
        ("**/*.xyz", ["scan"]),  # the pattern asks for this ending
    ],
)
def test_what_a_command_line_names(tmp_path, monkeypatch, part, names):
    touch(tmp_path, "a[1].png", "a1.png", "my photo, 1.JPG", "notes.txt", ".dot.png")
    touch(tmp_path, "sub/c.png", "sub/d.txt", "sub/scan.xyz")
    monkeypatch.chdir(tmp_path)
    listing = files.find_images([part], flag="input")
    assert found(listing) == names
    if part == "sub/*":
        assert listing.note() == "left out: 1 .txt, 1 .xyz"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nothing.png", "--input=nothing.png names no image; give existing"),
        ("sub", r"--input=sub names no image \(left out: 1 \.mp4, 1 \.txt\)"),
        ("film.MOV", r"film.MOV is a video, .*ffmpeg -i film.MOV frames/%06d.png"),
        ("*.MOV", "film.MOV is a video"),
    ],
)
def test_what_names_no_image_is_one_sentence(tmp_path, monkeypatch, text, message):
    touch(tmp_path, "sub/d.txt", "sub/e.mp4", "film.MOV")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=message):
        files.find_images([text], flag="input")


def test_names_that_are_no_utf8_are_listed_and_shown_on_one_line(tmp_path):
    name = os.fsdecode(b"caf\xe9\n.png")
    touch(tmp_path, name)
    ((listed, path),) = files.list_folder(tmp_path).images
    assert path.read_bytes() == b"x" and f"{listed}.png" == name
    assert files.shown(name) == r"caf\udce9\n.png"


LINES = [(1, "im0"), (4, "im 1"), (5, "größe")]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32", "utf-16-be"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_a_list_reads_the_same_whoever_wrote_it(tmp_path, encoding, end):
    text = end.join(["im0  ", "", "# a comment", "\tim 1", "größe"])
    mark = "\ufeff" if encoding == "utf-16-be" else ""
    (tmp_path / "l.txt").write_bytes((mark + text).encode(encoding))
    assert files.read_lines(tmp_path / "l.txt", "The list") == LINES


def test_other_line_separators_of_unicode_end_no_line(tmp_path):
    (tmp_path / "l.txt").write_bytes("a\x85b\u2028c\x0bd\n".encode())
    assert files.read_lines(tmp_path / "l.txt", "The list") == [(1, "a\x85b\u2028c\x0bd")]


def test_what_nobody_sees_around_lines_is_dropped(tmp_path):
    text = "\ufeff\u3000a b\xa0\u200b\n\u200b \n\u2003c\u180e\n"  # U+180E is no white space
    (tmp_path / "l.txt").write_text(text, encoding="utf-8")
    expected = [(1, "a b"), (3, "c\u180e")]
    assert files.read_lines(tmp_path / "l.txt", "The list") == expected


def test_a_long_line_of_spaces_takes_no_time(tmp_path):
    """Seconds for 20,000 spaces, if the time grows with their square."""
    (tmp_path / "l.txt").write_text("a" + " " * 200_000 + "b\n")
    begin = time.process_time()
    assert len(files.read_lines(tmp_path / "l.txt", "The list")) == 1
    assert time.process_time() - begin < 1


def test_a_file_name_may_begin_as_a_comment_does(tmp_path):
    (tmp_path / "l.txt").write_text("#1.jpg\n#2.jpg\n")
    lines = files.read_lines(tmp_path / "l.txt", "The list", is_content={"#2.jpg"}.__contains__)
    assert lines == [(2, "#2.jpg")]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "The list .*l.txt is empty"),
        (b"\n \r\n# nothing\n", "empty, or has only comments"),
        (b"a\r\nb\r\ncaf\xe9\r\n", "is not UTF-8 text in line 3; .*iconv -f LATIN1"),
        (b"\xff\xfea\0b", "is not UTF-8 text; "),
        ("name".encode("utf-16-le"), "is not text"),  # without a mark
        (b"\x89PNG\r\n\x1a\n\0\0", "is not UTF-8 text"),
        (b"PK\x03\x04\x14\0", "is not text"),
    ],
)
def test_what_is_no_list_is_one_sentence(tmp_path, content, message):
    (tmp_path / "l.txt").write_bytes(content)
    with pytest.raises(UserError, match=message):
        files.read_lines(tmp_path / "l.txt", "The list")


def test_a_missing_list_and_a_folder_are_one_sentence(tmp_path):
    with pytest.raises(UserError, match="The list .*none.txt does not exist"):
        files.read_lines(tmp_path / "none.txt", "The list")
    with pytest.raises(UserError, match="The list .* cannot be read: Is a directory"):
        files.read_lines(tmp_path, "The list")


def tiff(bits, kinds=None, *, order="<", big=False):
    """A TIFF's header by hand (TIFF 6.0 sec. 2, BigTIFF); long values follow the tags."""
    size = 8 if big else 4
    offset, count, entry = ("Q", "Q", "HHQ") if big else ("I", "H", "HHI")
    mark = {"<": b"II", ">": b"MM"}[order]
    start = 16 if big else 8
    header = mark + struct.pack(order + "H", 43 if big else 42)
    header += struct.pack(order + "HH", 8, 0) * big + struct.pack(order + offset, start)
    tags = [(256, [1]), (257, [1]), (258, bits), (262, [1]), (277, [len(bits)])]
    tags += [(339, kinds)] if kinds else []
    after = start + struct.calcsize(order + count) + len(tags) * (4 + 2 * size) + size
    body, tail = struct.pack(order + count, len(tags)), b""
    for tag, values in tags:
        packed = struct.pack(f"{order}{len(values)}H", *values)
        if len(packed) > size:
            place = struct.pack(order + offset, after + len(tail))
            tail += packed
        else:
            place = packed.ljust(size, b"\0")
        body += struct.pack(order + entry, tag, 3, len(values)) + place
    return header + body + b"\0" * size + tail


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("big", [False, True])
@pytest.mark.parametrize(
    ("bits", "kinds", "expected"),
    [
        ([8, 8, 8], None, ""),
        ([1], None, ""),
        ([8] * 5, [1] * 5, ""),
        ([16], [1], "16 bits per channel"),
        ([12], None, "12 bits per channel"),
        ([16] * 3, [1] * 3, "16 bits per channel"),
        ([16] * 7, [1] * 7, "16 bits per channel"),
        ([8, 8, 8, 16], None, "16 bits per channel"),
        ([32] * 2, [3] * 2, "32 bits per channel (floating point)"),
        ([8], [2], "8 bits per channel (signed integers)"),
    ],
)
def test_the_depth_of_a_tiff_is_seen_whatever_its_channels(bits, kinds, expected, order, big):
    assert files.deeper_than_8_bits(tiff(bits, kinds, order=order, big=big)) == expected


def png_of_depth(depth, color_type):
    sizes = struct.pack(">IIBBBBB", 1, 1, depth, color_type, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + sizes


@pytest.mark.parametrize("color_type", [0, 2, 4, 6])
def test_the_depth_of_a_png_is_seen_whatever_its_color_type(color_type):
    assert files.deeper_than_8_bits(png_of_depth(16, color_type)) == "16 bits per channel"
    assert files.deeper_than_8_bits(png_of_depth(8, color_type)) == ""


@pytest.mark.parametrize("mode", ["L", "RGB"])
@pytest.mark.parametrize("ending", [".png", ".jpg", ".tif", ".bmp", ".webp", ".jp2", ".ppm"])
def test_what_pillow_writes_with_8_bits_passes(tmp_path, mode, ending):
    path = tmp_path / f"a{ending}"
    Image.new(mode, (9, 7)).save(path)
    assert files.deeper_than_8_bits(path.read_bytes()) == ""


@pytest.mark.parametrize("ending", [".png", ".tif", ".jp2", ".pgm"])
def test_what_pillow_writes_with_16_bits_is_seen(tmp_path, ending):
    path = tmp_path / f"a{ending}"
    Image.fromarray(np.full([7, 9], 4095, np.uint16)).save(path)
    assert files.deeper_than_8_bits(path.read_bytes()) == "16 bits per channel"


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"P6 # a comment\n1 1\n65535\n" + b"\0" * 6, "16 bits per channel"),
        (b"P6\n1 1\n255\n" + b"\0" * 3, ""),
        (b"\x01\xda\0\2\0\3" + b"\0" * 506, "16 bits per channel"),
        (b"\xff\xd8\xff\xe0\0\4ab\xff\xff\xc1\0\x0b\x0c\0\1\0\1\1\1\x11\0", "12 bits per channel"),
        (b"", ""),
        (b"II*\0\xff\xff", ""),
        (b"\xff\xd8\xff", ""),
    ],
)
def test_the_depth_of_other_formats_and_cut_files(content, expected):
    assert files.deeper_than_8_bits(content) == expected


def test_a_file_appears_whole_or_not_at_all(tmp_path, monkeypatch):
    files.write(tmp_path / "new/a", b"one")
    files.write(tmp_path / "new/a", b"two")
    assert (tmp_path / "new/a").read_bytes() == b"two"

    def interrupted(source, target):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        files.write(tmp_path / "new/a", b"three")
    assert (tmp_path / "new/a").read_bytes() == b"two" and os.listdir(tmp_path / "new") == ["a"]


def test_a_full_disk_that_shows_late_leaves_the_old_file(tmp_path, monkeypatch):
    files.write(tmp_path / "a", b"one")

    def full(number):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        files.write(tmp_path / "a", b"two")
    assert (tmp_path / "a").read_bytes() == b"one" and os.listdir(tmp_path) == ["a"]


def test_what_killed_processes_were_writing_is_cleared_and_nothing_else(tmp_path):
    touch(tmp_path, ".dead-writing", "my-writing", ".hidden")
    with (tmp_path / ".living-writing").open("wb") as living:
        fcntl.flock(living, fcntl.LOCK_EX)
        files.write(tmp_path / "a", b"one")
    left = {".living-writing", "my-writing", ".hidden", "a"}
    assert set(os.listdir(tmp_path)) == left
    mode = stat.S_IMODE((tmp_path / "a").stat().st_mode)
    touch(tmp_path, "b")
    assert mode == stat.S_IMODE((tmp_path / "b").stat().st_mode)  # others may read it


HOLDER = """
import sys, time
from pathlib import Path
from deeplab_tf import files
from deeplab_tf.files import reading
with files.sole_writer(Path(sys.argv[1]), busy=""):
    print("holds it", flush=True)
    time.sleep(60)
"""


def test_a_folder_has_one_writer_and_a_killed_one_leaves_it(tmp_path):
    folder = tmp_path / "not/yet"
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, folder], stdout=subprocess.PIPE)
    assert holder.stdout.readline() == b"holds it\n"
    with pytest.raises(UserError, match="^Busy$"), files.sole_writer(folder, busy="Busy"):
        pass
    holder.kill()
    holder.communicate()
    with files.sole_writer(folder, busy="Busy"):
        assert os.listdir(folder) == [".lock"]
    assert os.listdir(tmp_path) == ["not"]  # made by the other process


def test_a_folder_of_no_use_is_removed_with_those_made_for_it(tmp_path):
    with files.sole_writer(tmp_path / "a/b", busy=""):
        pass
    assert os.listdir(tmp_path) == []
    with files.sole_writer(tmp_path / "a/b", busy=""):
        touch(tmp_path, "a/b/c")
    assert os.listdir(tmp_path / "a/b") == ["c"]


def test_a_file_system_without_locks_is_told(tmp_path, monkeypatch, capsys):
    def missing(file, operation):
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", missing)
    with files.sole_writer(tmp_path, busy=""):
        files.write(tmp_path / "a", b"one")
    assert "without locks (Function not implemented); make sure" in capsys.readouterr().err


def test_names_are_one_place_only_where_the_file_system_says_so(tmp_path):
    assert files.same_place(tmp_path / "not/yet", "sub/a", "sub/a")
    (tmp_path / "x").touch()
    folds = (tmp_path / "X").exists()  # macOS, Windows
    assert files.same_place(tmp_path, "sub/a", "sub/A") == folds
    assert os.listdir(tmp_path) == ["x"]


@pytest.mark.parametrize("kind", ["pipe", "device", "link to a device", "loop", "folder"])
def test_what_is_no_file_is_never_waited_for(tmp_path, kind):
    path = {"device": Path("/dev/zero")}.get(kind, tmp_path / "a.png")
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind != "device":
        path.symlink_to("/dev/zero" if kind == "link to a device" else path)
    for read in (files.open_regular, files.read_bytes):
        with pytest.raises(OSError, match="pipe or a device|symbolic links|irectory"):
            read(path)
    with pytest.raises(UserError, match=r"The list .* cannot be read: "):
        files.read_text(path, "The list")


def test_links_to_files_are_read(tmp_path):
    touch(tmp_path, "a")
    (tmp_path / "b").symlink_to("a")
    assert files.read_bytes(tmp_path / "b") == b"x"


def test_a_file_beyond_the_limit_is_not_read(tmp_path):
    with (tmp_path / "huge").open("wb") as file:
        file.truncate(2**40)  # takes no room
    with pytest.raises(OSError, match="more than 1024 MiB"):
        files.read_bytes(tmp_path / "huge")
    with pytest.raises(UserError, match="cannot be read: it has more than 128 MiB"):
        files.read_text(tmp_path / "huge", "The list")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a", "a.png"),
        ("/data/./a//b.jpg", "data/a/b.jpg.png"),
        ("..a/b..", "..a/b...png"),
        ("\udcff", "\udcff.png"),  # a name of other bytes than UTF-8
        ("x" * 251, "x" * 251 + ".png"),
    ],
)
def test_a_name_from_data_is_a_path_in_the_folder(tmp_path, name, expected):
    path = files.path_below(tmp_path, name, ".png")
    assert path == tmp_path / expected
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("", "is empty"),
        ("/./", "is empty"),
        ("../a", "leads out"),
        ("a/../../b", "leads out"),
        ("/a/..", "leads out"),
        ("a\0b", "control character"),
        ("a\nb", "control character"),
        ("x" * 252, "too long"),
        ("x/" * 3000 + "a", "too long"),
    ],
)
def test_a_name_from_data_never_leads_out_of_the_folder(tmp_path, name, problem):
    with pytest.raises(UserError, match=f"No file in .* can have the name .* {problem}"):
        files.path_below(tmp_path, name, ".png")


def test_a_file_is_read_whole_though_a_read_returns_less_than_was_asked_for(tmp_path, monkeypatch):
    """As on some network file systems; others give no size, like /proc."""
    path = tmp_path / "a"
    path.write_bytes(bytes(range(256)) * 10)
    assert files.read_bytes(Path("/proc/self/stat")).startswith(str(os.getpid()).encode())

    opened = reading.open_regular

    class Short:
        def __init__(self, path):
            self.file = opened(path)

        def read(self, size):
            return self.file.read(min(size, 100))

        def fileno(self):
            return self.file.fileno()

        def __enter__(self):
            return self

        def __exit__(self, *_):
            self.file.close()

    monkeypatch.setattr(reading, "open_regular", Short)
    assert files.read_bytes(path) == bytes(range(256)) * 10
    with pytest.raises(OSError, match="more than 0 MiB"):
        files.read_bytes(path, most=2559)


def test_an_empty_folder_that_was_there_stays(tmp_path):
    with files.sole_writer(tmp_path / "there", busy="busy"):
        pass
    assert not (tmp_path / "there").exists()

    (tmp_path / "there").mkdir()
    with files.sole_writer(tmp_path / "there", busy="busy"):
        pass
    assert (tmp_path / "there").is_dir()
