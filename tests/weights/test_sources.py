"""Where a file comes from, and what the user is told about files without weights."""

import concurrent.futures
import hashlib
import tarfile

import pytest

from deeplab_tf.messages import UserError
from deeplab_tf.weights import sources
from deeplab_tf.weights.untold import Untold
from tests.test_archives import server  # noqa: F401  (a fixture)
from tests.weights import writers
from tests.weights.test_ssseg import IMAGES, Oracle


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


def packed(path, *files):
    with tarfile.open(path, "w:gz") as tar:
        for file in files:
            tar.add(file, file.name)


def files_in(folder):
    return [path.name for path in folder.rglob("*") if path.is_file() and path.name != ".lock"]


def test_a_web_page_instead_of_a_file_is_not_kept(server, tmp_path, cache):  # noqa: F811
    oracle = Oracle()
    oracle.backbone(IMAGES, "", 18, "v1", 16)
    writers.write_pth(tmp_path / "r.pth", oracle.arrays)
    server.files["r.pth"] = b"<!DOCTYPE html><html>Please log in.</html>"
    with pytest.raises(UserError, match=r"^What http.*r\.pth sent was deleted: .*'<!DOCTYP'"):
        sources.read(f"{server.url}/r.pth")
    assert files_in(cache) == []
    server.files["r.pth"] = (tmp_path / "r.pth").read_bytes()
    assert sources.read(f"{server.url}/r.pth").config.model_variant == "resnet_v1b_18"
    with pytest.raises(UserError, match="--multi_grid=1,2,4"):  # the file is good, so it stays
        sources.read(f"{server.url}/r.pth", Untold(multi_grid=(1, 2, 4)))
    assert files_in(cache) == ["r.pth"]


def test_a_query_is_not_part_of_the_name(server, tmp_path, cache):  # noqa: F811
    name = "m.tar.gz?download=1"
    packed(tmp_path / "m.tar.gz")
    server.files[name] = (tmp_path / "m.tar.gz").read_bytes()
    with pytest.raises(UserError, match=r"m\.tar\.gz\?download=1 must hold one TensorFlow check"):
        sources.read(f"{server.url}/{name}")
    assert files_in(cache) == []


def test_a_failed_download_names_the_way_out(server):  # noqa: F811
    way_out = (
        r"answers 404; fetch the file by hand and give its path: --tf_initial_checkpoint=PATH\."
    )
    with pytest.raises(UserError, match=way_out):
        sources.read(f"{server.url}/none.pth")
    for address in ("http://[bad/x.pth", "ftp://host/x.pth", "http://host/", "http://host/.."):
        with pytest.raises(UserError, match="address of (the web|no file)"):
            sources.read(address)


def test_what_is_missing_from_a_checkpoint_is_named(tmp_path):
    part = tmp_path / "a/model.ckpt-5.data-00000-of-00001"
    part.parent.mkdir()
    part.write_bytes(b"cells")
    for source in (part, tmp_path / "a/model.ckpt-5"):
        with pytest.raises(UserError, match=r"lacks .*/a/model\.ckpt-5\.index, without which"):
            sources.read(str(source))
    with pytest.raises(UserError, match=r"/a must hold .*; it holds: model\.ckpt-5\.data-00000-of"):
        sources.read(str(part.parent))
    (tmp_path / "x.pth").write_bytes(b"x")
    for files, held in (((), "nothing"), ((tmp_path / "x.pth",), r"x\.pth")):
        packed(tmp_path / "m.tar.gz", *files)
        with pytest.raises(UserError, match=rf"^{tmp_path}/m\.tar\.gz must .* it holds: {held}\."):
            sources.read(str(tmp_path / "m.tar.gz"))
    (tmp_path / "x.h5").write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(99))
    with pytest.raises(UserError, match=r"x\.h5 was not read: it begins with b'.x89HDF"):
        sources.read(str(tmp_path / "x.h5"))


def test_a_cached_file_of_another_content_is_named(server, tmp_path, cache, monkeypatch):  # noqa: F811
    """Someone put a file into the cache by hand that is not the published one."""
    monkeypatch.setattr(sources, "_HASH_IN_NAME", (server.url.removeprefix("http://"),))
    url = f"{server.url}/r-0123abcd.pth"
    with pytest.raises(UserError, match="answers 404; fetch the file by hand"):
        sources.fetch(url)
    (folder,) = (path for path in cache.rglob("*") if (path / ".lock").is_file())
    (folder / "r-0123abcd.pth").write_bytes(b"other")
    with pytest.raises(UserError, match=r"r-0123abcd\.pth exists, but has the sha256 d9298a1"):
        sources.fetch(url)
    server.files["r-0123abcd.pth"] = b"damaged on the way"
    with pytest.raises(UserError, match="sent has the sha256 .*, not 0123abcd, so it was delet"):
        sources.fetch(url)
    assert (folder / "r-0123abcd.pth").read_bytes() == b"other"


def test_a_file_whose_name_holds_another_hash_causes_a_warning(tmp_path, caplog):
    oracle = Oracle()
    oracle.backbone(IMAGES, "", 18, "v1", 16)
    path = tmp_path / "resnet18-0123abcd.pth"
    writers.write_pth(path, oracle.arrays)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()[:8]
    assert sources.read(str(path)).config.model_variant == "resnet_v1b_18"
    assert f"{path} is not the file that was published" in caplog.text and digest in caplog.text
    caplog.clear()
    sources.read(str(path.rename(tmp_path / f"resnet18-{digest}.pth")))
    assert not caplog.text


def test_downloads_of_two_processes_take_turns(server, cache):  # noqa: F811
    content = bytes(range(256)) * 40_000
    server.files["w.bin"] = content
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        paths = list(pool.map(lambda _: sources.fetch(f"{server.url}/w.bin"), range(4)))
    assert paths[0].read_bytes() == content and len(set(paths)) == 1
    assert len(server.ranges) == 1
