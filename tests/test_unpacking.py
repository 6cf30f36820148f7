import bz2
import gzip
import io
import lzma
import tarfile
import types
import zipfile

import pytest

from deeplab_tf import unpacking
from deeplab_tf.messages import UserError


def tar_of(members):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for info in members:
            tar.addfile(info, io.BytesIO(b"x" * info.size))
    return buffer.getvalue()


def member(name, kind=tarfile.REGTYPE, size=1, link=""):
    info = tarfile.TarInfo(name)
    info.type, info.size, info.linkname = kind, size if kind == tarfile.REGTYPE else 0, link
    return info


@pytest.mark.parametrize(("name", "mode"), [("../outside", 0), ("inside/link", 0o120777 << 16)])
def test_zip_members_that_reach_outside_are_refused(tmp_path, name, mode):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as file:
        info = zipfile.ZipInfo(name)
        info.external_attr = mode
        file.writestr(info, "/etc")
    with pytest.raises(UserError, match="not a plain file inside"):
        unpacking.unpack(tmp_path / "a.zip", tmp_path / "out")


def test_a_cut_archive_is_one_sentence(tmp_path):
    (tmp_path / "a.tgz").write_bytes(tar_of([member("inside/a", size=100_000)])[:60])
    with pytest.raises(UserError, match="cannot be unpacked"):
        unpacking.unpack(tmp_path / "a.tgz", tmp_path / "out")


def refused(path, folder, said):
    with pytest.raises(UserError, match=said) as error:
        unpacking.unpack(path, folder / "out")
    assert not (folder / "out").exists() and len(str(error.value)) < 600


@pytest.mark.parametrize(("number", "size"), [(1, 2_000_000), (500, 0)], ids=["large", "many"])
def test_what_unpacks_to_far_more_than_its_size_is_refused(tmp_path, monkeypatch, number, size):
    monkeypatch.setattr(unpacking, "_MOST_OF_SMALL", 1 << 20)
    monkeypatch.setattr(unpacking, "_MOST_GROWTH", 10)
    (tmp_path / "a.tgz").write_bytes(tar_of(member(f"f{i}", size=size) for i in range(number)))
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as file:
        for index in range(number):
            file.writestr(f"f{index}", bytes(size))
    for path in (tmp_path / "a.tgz", tmp_path / "a.zip"):
        refused(path, tmp_path, "far more than its own size, so it was not unpacked; take another")


def test_a_full_disk_is_noticed_before_it_is_full(tmp_path, monkeypatch):
    (tmp_path / "a.tgz").write_bytes(tar_of([member("a", size=20_000)]))
    disk = types.SimpleNamespace(free=10_000)
    monkeypatch.setattr(unpacking.shutil, "disk_usage", lambda _: disk)
    refused(tmp_path / "a.tgz", tmp_path, r"than there is room for in .* \(10000\), so it was not")
    disk.free = 50_000
    unpacking.unpack(tmp_path / "a.tgz", tmp_path / "out")
    assert (tmp_path / "out/a").read_bytes() == b"x" * 20_000


@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.REGTYPE])
def test_long_headers_of_a_tar_are_not_read_into_memory(tmp_path, monkeypatch, kind):
    monkeypatch.setattr(unpacking, "_MOST_HEADERS", 1 << 18)
    header = tarfile.TarInfo("a")
    header.type, header.size = kind, 1 << 20
    content = bytes(header.size)
    if kind == tarfile.REGTYPE:  # sparse, with a table of many pieces at the start of its content
        header.pax_headers = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0"}
        content = b"262140\n" + b"0\n" * ((header.size - 7) // 2) + b"\0"
    packed = gzip.compress(header.tobuf(tarfile.PAX_FORMAT) + content + bytes(1024), 1)
    (tmp_path / "a.tgz").write_bytes(packed)
    refused(tmp_path / "a.tgz", tmp_path, "cannot be unpacked .headers of more than 262144 bytes")


@pytest.mark.parametrize("pack", [bytes, gzip.compress, bz2.compress, lzma.compress])
def test_damage_anywhere_in_a_tar_is_noticed(tmp_path, pack):
    plain = gzip.decompress(tar_of(member(f"f{i}", size=600) for i in range(3)))
    whole = pack(plain)
    (tmp_path / "a.tar").write_bytes(whole)
    unpacking.unpack(tmp_path / "a.tar", tmp_path / "whole")
    assert sorted(path.name for path in (tmp_path / "whole").iterdir()) == ["f0", "f1", "f2"]

    # tarfile takes a damaged header, here of the second member, for the end.
    damaged = bytearray(plain)
    damaged[3 * 512 + 100] ^= 0xFF
    (tmp_path / "a.tar").write_bytes(pack(bytes(damaged)))
    refused(tmp_path / "a.tar", tmp_path, "cannot be unpacked .a header is damaged")

    # It does not read on to the checksums, which come last.
    if pack is not bytes:
        damaged = bytearray(whole)
        damaged[-8 if pack is gzip.compress else -4 if pack is bz2.compress else -20] ^= 0xFF
        (tmp_path / "a.tar").write_bytes(damaged)
        refused(tmp_path / "a.tar", tmp_path, "cannot be unpacked .*; fetch it again")
