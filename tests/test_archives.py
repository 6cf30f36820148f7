import contextlib
import dataclasses
import hashlib
import http.server
import io
import re
import socketserver
import tarfile
import threading
import time
import zipfile

import pytest

from datasets import build_ade20k_data, build_pascal_context_data, build_voc2012_data
from deeplab_tf import archives
from deeplab_tf.data import catalog
from deeplab_tf.messages import UserError
from tests import trees
from tests.test_unpacking import member, tar_of

CONTENT = bytes(range(256)) * 40_000  # 10 MB


class Server(http.server.ThreadingHTTPServer):
    """Serves `files` on loopback; breaks off each answer after `break_after` bytes."""

    def __init__(self):
        self.files: dict[str, bytes] = {}
        self.ranges: list[str | None] = []
        self.break_after, self.knows_ranges, self.busy = 0, True, 0
        self.has_tags, self.next_content = False, b""
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        content = self.server.files.get(self.path.lstrip("/"))
        if content is None:
            self.send_error(404)
            return
        wanted = self.headers.get("Range")
        self.server.ranges.append(wanted)
        if self.server.busy:
            self.server.busy -= 1
            self.send_error(503)
            return
        first = int(re.fullmatch(r"bytes=(\d+)-", wanted)[1]) if wanted else 0
        tag = f'"{hashlib.md5(content).hexdigest()}"' if self.server.has_tags else ""
        is_other = self.headers.get("If-Range", tag) != tag
        if wanted and (is_other or not self.server.knows_ranges):
            first, wanted = 0, None
        if first >= len(content):
            self.send_error(416)
            return
        self.send_response(206 if wanted else 200)
        self.send_header("Content-Length", str(len(content) - first))
        if tag:
            self.send_header("ETag", tag)
        if wanted:
            self.send_header("Content-Range", f"bytes {first}-{len(content) - 1}/{len(content)}")
        self.end_headers()
        last = first + self.server.break_after if self.server.break_after else len(content)
        self.wfile.write(content[first:last])
        if self.server.next_content:
            self.server.files[self.path.lstrip("/")] = self.server.next_content

    def log_message(self, *args):
        pass


def test_a_busy_server_is_asked_again(server, tmp_path):
    server.busy = 2
    assert archives.fetch(archive_of(server), tmp_path).read_bytes() == CONTENT
    assert server.ranges == [None, None, None]


@pytest.mark.parametrize("left_over", [b"another file", CONTENT[1:200], CONTENT + b"more"])
def test_the_start_of_another_file_is_fetched_anew(server, tmp_path, left_over):
    (tmp_path / "a.tar.part").write_bytes(left_over)
    assert archives.fetch(archive_of(server, size=0), tmp_path).read_bytes() == CONTENT


@pytest.mark.parametrize("algorithm", ["md5", "sha1"])
def test_the_published_hash_may_be_an_older_kind(server, tmp_path, algorithm):
    archive = archive_of(server)
    digest = hashlib.new(algorithm, CONTENT).hexdigest()
    archive = dataclasses.replace(archive, algorithm=algorithm, digest=digest)
    assert archives.fetch(archive, tmp_path).read_bytes() == CONTENT


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr(archives.time, "sleep", lambda seconds: None)
    server = Server()
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def archive_of(server, content=CONTENT, name="a.tar", folder="inside", size=None):
    server.files[name] = content
    digest = hashlib.sha256(content).hexdigest()
    size = len(content) if size is None else size
    return archives.Archive(f"{server.url}/{name}", "sha256", digest, folder, size)


def test_a_file_is_fetched_once(server, tmp_path):
    archive = archive_of(server)
    assert archives.fetch(archive, tmp_path).read_bytes() == CONTENT
    archives.fetch(archive, tmp_path)
    assert server.ranges == [None]
    assert [path.name for path in tmp_path.iterdir()] == ["a.tar"]


def test_a_broken_connection_is_continued(server, tmp_path):
    server.break_after = 4_000_000
    assert archives.fetch(archive_of(server), tmp_path).read_bytes() == CONTENT
    assert server.ranges == [None, "bytes=4000000-", "bytes=8000000-"]


def test_an_interrupted_download_is_continued_by_the_next_call(server, tmp_path):
    (tmp_path / "a.tar.part").write_bytes(CONTENT[:1_000_000])
    assert archives.fetch(archive_of(server, size=0), tmp_path).read_bytes() == CONTENT
    assert server.ranges == ["bytes=1000000-"]
    (tmp_path / "a.tar").rename(tmp_path / "a.tar.part")  # stopped just before the last rename
    assert archives.fetch(archive_of(server, size=0), tmp_path).read_bytes() == CONTENT


def test_a_server_without_ranges_sends_everything_again(server, tmp_path):
    server.knows_ranges = False
    (tmp_path / "a.tar.part").write_bytes(CONTENT[:1_000_000])
    assert archives.fetch(archive_of(server), tmp_path).read_bytes() == CONTENT


def test_a_server_that_never_gets_further_is_given_up(server, tmp_path):
    server.break_after = 1000
    with pytest.raises(UserError, match="the connection ended early.; the same command goes on"):
        archives.fetch(archive_of(server), tmp_path)
    assert (tmp_path / "a.tar.part").stat().st_size == 5000  # five attempts


@pytest.mark.parametrize("size", [0, len(CONTENT)])
def test_another_file_of_the_same_size_is_refused_and_deleted(server, tmp_path, size):
    archive = archive_of(server, size=size)
    server.files["a.tar"] = CONTENT[::-1]
    with pytest.raises(UserError, match=r"has the sha256 \w+, not \w+, so it was deleted"):
        archives.fetch(archive, tmp_path)
    assert not list(tmp_path.iterdir())


def test_another_size_is_refused_before_it_is_fetched(server, tmp_path):
    archive = archive_of(server)
    server.files["a.tar"] = CONTENT + b"more"
    with pytest.raises(UserError, match="has 10240004 bytes, but the published file has 10240000"):
        archives.fetch(archive, tmp_path)


def test_a_missing_file_and_a_missing_server_are_one_sentence(server, tmp_path):
    archive = archive_of(server)
    server.files.clear()
    with pytest.raises(UserError, match="answers 404; fetch the file by hand to .*a.tar"):
        archives.fetch(archive, tmp_path)
    with pytest.raises(UserError, match="cannot be fetched .*refused.*--download_mirror"):
        archives.fetch(archive, tmp_path, mirror="http://127.0.0.1:9")
    for mirror in ("file:///etc", "http://[bad", "http://host/my files", "http://host:port"):
        with pytest.raises(UserError, match="not an address of the web"):
            archives.fetch(archive, tmp_path, mirror=mirror)


@pytest.mark.parametrize(
    "bad",
    [
        member("../outside"),
        member("inside/../../outside"),
        member("/tmp/outside"),
        member("inside/link", tarfile.SYMTYPE, link="/etc"),
        member("inside/link", tarfile.LNKTYPE, link="inside/a"),
        member("inside/device", tarfile.CHRTYPE),
    ],
    ids=lambda info: f"{info.name}-{info.type.decode()}",
)
def test_tar_members_that_reach_outside_are_refused(server, tmp_path, bad):
    archive = archive_of(server, tar_of([member("inside/a"), bad]))
    with pytest.raises(UserError, match="not a plain file inside its folder"):
        archives.install(archive, tmp_path / "data/inside", flag="root")
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["a.tar"]


def test_the_root_must_be_where_the_archive_unpacks_to(server, tmp_path):
    archive = archive_of(
        server, tar_of([member("VOCdevkit/VOC2012/a")]), folder="VOCdevkit/VOC2012"
    )
    with pytest.raises(UserError, match="--voc_root=.*unpacks to VOCdevkit/VOC2012"):
        archives.install(archive, tmp_path / "VOC2012", flag="voc_root")
    (tmp_path / "VOCdevkit/VOC2012").mkdir(parents=True)  # empty: as good as none
    (tmp_path / ".a.tar-unpacking/VOCdevkit/VOC2012").mkdir(parents=True)  # of a killed call
    (tmp_path / ".a.tar-unpacking/VOCdevkit/VOC2012/cut").write_bytes(b"")
    archives.install(archive, tmp_path / "VOCdevkit/VOC2012", flag="voc_root")
    assert [path.name for path in (tmp_path / "VOCdevkit/VOC2012").iterdir()] == ["a"]
    assert (tmp_path / "VOCdevkit/VOC2012/a").read_bytes() == b"x"
    other = archive_of(server, tar_of([member("elsewhere/a")]), name="b.tar")
    with pytest.raises(UserError, match="does not hold the folder inside"):
        archives.install(other, tmp_path / "inside", flag="root")


def test_a_builder_goes_from_the_archive_to_records(server, tmp_path, monkeypatch):
    trees.ade20k(tmp_path / "theirs")
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        for path in sorted((tmp_path / "theirs").rglob("*")):
            file.write(path, path.relative_to(tmp_path / "theirs"))
    published = archive_of(
        server, buffer.getvalue(), name="ADEChallengeData2016.zip", folder="ADEChallengeData2016"
    )
    monkeypatch.setattr(build_ade20k_data, "ARCHIVE", published)
    config = build_ade20k_data.ADE20KConfig(
        ade20k_root=str(tmp_path / "mine/ADEChallengeData2016"),
        output_dir=str(tmp_path / "out"),
        num_processes=1,
        download=True,
        download_mirror=server.url,
    )
    build_ade20k_data.main(config)
    assert catalog.load("ade20k", tmp_path / "out").splits == {"train": 3, "val": 2}
    build_ade20k_data.main(config)
    assert server.ranges == [None]  # nothing was fetched again


@pytest.mark.parametrize(
    "config",
    [
        build_ade20k_data.ADE20KConfig,
        build_voc2012_data.VOC2012Config,
        build_pascal_context_data.PascalContextConfig,
    ],
)
def test_a_mirror_without_a_download_is_refused(config):
    with pytest.raises(UserError, match="--download_mirror=http://x .*nothing without --download"):
        config(output_dir="d", download_mirror="http://x")


def test_where_no_server_is_reached_it_is_said_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr(archives.time, "sleep", lambda _: pytest.fail("waits for no network"))
    archive = archives.Archive("http://127.0.0.1:9/a.tar", "md5", "", folder="a")
    with pytest.raises(UserError, match=r"cannot be fetched \(.*refused\); fetch the file by hand"):
        archives.fetch(archive, tmp_path)


class Script(socketserver.ThreadingTCPServer):
    """Answers every request on loopback with the bytes that `parts` yields."""

    daemon_threads, block_on_close = True, False

    def __init__(self, parts):
        self.parts = parts
        super().__init__(("127.0.0.1", 0), ScriptHandler)
        self.url = f"http://127.0.0.1:{self.server_address[1]}"

    def handle_error(self, request, client_address):
        """Prints nothing: the client leaves in the middle of endless answers."""


class ScriptHandler(socketserver.StreamRequestHandler):
    def handle(self):
        lines = list(iter(lambda: self.rfile.readline().strip().decode(), ""))
        with contextlib.suppress(OSError):
            for part in self.server.parts("\n".join(lines)):
                self.wfile.write(part)


@pytest.fixture
def scripted(monkeypatch):
    """Starts a Script; the attempts of a download follow each other at once."""
    monkeypatch.setattr(archives, "_ATTEMPTS", 2)
    sleep = time.sleep
    monkeypatch.setattr(archives.time, "sleep", lambda seconds: sleep(min(seconds, 0.02)))
    servers = []

    def start(parts):
        servers.append(Script(parts))
        threading.Thread(target=servers[-1].serve_forever, args=(0.01,), daemon=True).start()
        return servers[-1].url

    yield start
    for one in servers:
        one.shutdown()
        one.server_close()


OK, END = b"HTTP/1.1 200 OK\r\n", b"\r\n"


def fetched(url, folder, *, size=0, content=CONTENT, is_hashed=True):
    digest = hashlib.sha256(content).hexdigest() if is_hashed else ""
    archive = archives.Archive(f"{url}/a.tar", "sha256", digest, "inside", size)
    return archives.fetch(archive, folder, advice="ask them").read_bytes()


@pytest.mark.parametrize(
    "start", [OK + END, b"HTTP/1.1 200 OK\r\nX-Long: "], ids=["body", "header"]
)
def test_a_server_that_drips_is_given_up(scripted, tmp_path, monkeypatch, start):
    monkeypatch.setattr(archives, "_PACE_SECONDS", 0.2)

    def drip(_):
        yield start
        while True:
            yield b"x"
            time.sleep(0.02)

    reason = r"cannot be fetched \(it sent \d+ bytes in 0 seconds\); ask them"
    with pytest.raises(UserError, match=reason):
        fetched(scripted(drip), tmp_path, is_hashed=False)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("is_hashed", "tag", "connections"),
    [(False, b"", 1), (False, b'ETag: "1"\r\n', 2), (True, b"", 2)],
)
def test_another_connection_is_tried_once_where_it_goes_on(
    scripted, tmp_path, monkeypatch, is_hashed, tag, connections
):
    monkeypatch.setattr(archives, "_PACE_SECONDS", 0.2)
    monkeypatch.setattr(archives, "_ATTEMPTS", 5)
    requests = []

    def drip(request):
        requests.append(request)
        yield OK + tag + END
        while True:
            yield b"x"
            time.sleep(0.02)

    with pytest.raises(UserError, match=r"cannot be fetched \(it sent"):
        fetched(scripted(drip), tmp_path, is_hashed=is_hashed)
    assert len(requests) == connections


def test_a_slow_start_of_a_fast_download_is_waited_for(scripted, tmp_path, monkeypatch):
    monkeypatch.setattr(archives, "_PACE_SECONDS", 0.1)

    def late(_):
        time.sleep(0.15)
        yield OK + b"Content-Length: %d\r\n\r\n" % len(CONTENT) + CONTENT

    assert fetched(scripted(late), tmp_path) == CONTENT


@pytest.mark.parametrize(("size", "said"), [(0, "does not say how many.*"), (3_000_000, "")])
def test_an_answer_without_an_end_is_ended(scripted, tmp_path, monkeypatch, size, said):
    monkeypatch.setattr(archives, "_MOST_UNTOLD", 3_000_000)

    def endless(_):
        yield OK + b"Transfer-Encoding: chunked\r\n\r\n"
        while True:
            yield b"10000\r\n" + bytes(0x10000) + b"\r\n"

    with pytest.raises(UserError, match=f"{said}sends more than 3000000 bytes, so .* deleted; ask"):
        fetched(scripted(endless), tmp_path, size=size)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (b"HTTP/1.1 416 No\r\n", "answers 416; ask"),
        (b"HTTP/1.1 302 Go\r\nLocation: file:///etc/passwd\r\n", "answers 302 .a redirection"),
        (b"HTTP/1.1 302 Go\r\nLocation: ftp://127.0.0.1/a\r\n", "answers 302 .a redirection"),
        (b"HTTP/1.1 302 Go\r\nLocation: /a.tar\r\n", "answers 302 .a redirection"),
        (b"HTTP/1.1 206 Part\r\nContent-Range: bytes 7-8/9\r\n", "another part than was asked"),
        (OK + b"Content-Length: 1" + b"0" * 15 + END, "bytes to fetch, but there is room for"),
        (b"x" * 5000 + END, r"cannot be fetched \(x+\.\.\.\); ask"),
    ],
    ids=["416", "file", "ftp", "loop", "other part", "no room", "no status"],
)
def test_answers_that_bring_nothing_are_one_sentence(scripted, tmp_path, answer, said):
    with pytest.raises(UserError, match=f"^http://.*{said}") as error:
        fetched(scripted(lambda _: [answer + END]), tmp_path)
    assert len(str(error.value)) < 600 and not list(tmp_path.iterdir())


def test_the_page_of_a_redirection_is_not_read(scripted, tmp_path):
    def redirect(request):
        if "/b.tar" in request:
            yield OK + b"Content-Length: 3\r\n\r\nabc"
            return
        yield b"HTTP/1.1 302 Go\r\nLocation: /b.tar\r\n\r\n"
        while True:
            yield bytes(0x10000)

    assert fetched(scripted(redirect), tmp_path, content=b"abc") == b"abc"


def test_what_has_no_hash_is_never_put_together_of_two_files(server, tmp_path):
    (tmp_path / "a.tar.part").write_bytes(b"the start of an older file")
    server.files["a.tar"] = CONTENT
    assert fetched(server.url, tmp_path, is_hashed=False) == CONTENT
    assert server.ranges == [None]

    (tmp_path / "a.tar").unlink()
    server.break_after, server.has_tags, server.next_content = 6_000_000, True, CONTENT[::-1]
    assert fetched(server.url, tmp_path, is_hashed=False) == CONTENT[::-1]
    # The second attempt asks for the rest, but gets all of the other file.
    assert server.ranges == [None, None, "bytes=6000000-", "bytes=6000000-"]
