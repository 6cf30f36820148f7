import collections
import os
import pickle
import struct
import sys
import time
import tracemalloc
import types
import zipfile

import numpy as np
import pytest

from deeplab_tf.messages import UserError
from deeplab_tf.weights import pickles, torch_file
from tests.weights import writers

RNG = np.random.default_rng(0)
CONTENT = {
    "model": {
        "a.weight": RNG.standard_normal((2, 3, 1, 1)).astype(np.float32),
        "a.num_batches_tracked": np.array(7, np.int64),
        "half": RNG.standard_normal(4).astype(np.float16),
        "empty": np.zeros([0, 3], np.float32),
        "flags": np.array([True, False]),
    },
    "epoch": 3,
    "names": ["x", ("y", 1.5)],
}


def assert_same(found, expected):
    if isinstance(expected, dict):
        assert list(found) == list(expected)
        for key, value in expected.items():
            assert_same(found[key], value)
    elif isinstance(expected, np.ndarray):
        assert found.dtype == expected.dtype and found.shape == expected.shape
        np.testing.assert_array_equal(found, expected)
    elif isinstance(expected, list | tuple):
        for one, other in zip(found, expected, strict=True):
            assert_same(one, other)
    else:
        assert found == expected


@pytest.mark.parametrize("legacy", [False, True])
def test_both_formats_are_read(tmp_path, legacy):
    writers.write_pth(tmp_path / "a.pth", CONTENT, legacy=legacy)
    assert_same(torch_file.load(tmp_path / "a.pth"), CONTENT)


def test_views_share_a_storage(tmp_path):
    whole = np.arange(12, dtype=np.float32)
    claim = {id(whole): (1, (2, 3), (1, 4))}  # offset, shape, strides, in cells
    writers.write_pth(tmp_path / "a.pth", {"view": whole}, described=claim)
    found = torch_file.load(tmp_path / "a.pth")["view"]
    np.testing.assert_array_equal(found, [[1, 5, 9], [2, 6, 10]])


def test_a_storage_that_many_tensors_share_is_read_once(tmp_path, monkeypatch):
    path = tmp_path / "a.pth"
    writers.write_pth(path, {str(n): np.full(4, n, np.float32) for n in range(5, 9)})
    key = b"X\x01\x00\x00\x00%d"  # how the pickle writes a text of one character

    def share(members):
        for n in range(1, 4):
            content = members["archive/data.pkl"].replace(key % n, key % 0)
            members["archive/data.pkl"] = content

    damaged(path, share)
    names = []
    read = zipfile.ZipFile.read
    monkeypatch.setattr(
        zipfile.ZipFile,
        "read",
        lambda a, n: names.append(getattr(n, "filename", n)) or read(a, n),
    )
    found = torch_file.load(path)
    assert all((array == 5).all() for array in found.values()) and len(found) == 4
    assert names.count("archive/data/0") == 1 and "archive/data/1" not in names


@pytest.mark.parametrize(
    "claim",
    [
        (0, (13,), (1,)),
        (1, (12,), (1,)),
        (0, (2, 2), (1, 11)),
        (0, (10**9, 12), (0, 1)),
        (-1, (2,), (1,)),
        (0, (-2,), (1,)),
        (0, (2,), (-1,)),
        (0, (2.0,), (1,)),
        (0, (2, 2), (1,)),
        (10**30, (1,), (1,)),
        (0, (12,), (1,), {"neg": True}),
    ],
)
def test_tensors_that_reach_outside_of_their_storage_are_refused(tmp_path, claim):
    whole = np.arange(12, dtype=np.float32)
    writers.write_pth(tmp_path / "a.pth", {"view": whole}, described={id(whole): claim})
    with pytest.raises(UserError, match=r"a\.pth was not read: (a tensor|it describes)"):
        torch_file.load(tmp_path / "a.pth")


class Call:
    """An object whose pickle calls a function when it is read."""

    def __init__(self, function, *arguments):
        self.function, self.arguments = function, arguments

    def __reduce__(self):
        return self.function, self.arguments


def with_pickle(path, content, legacy=False):
    if legacy:
        with path.open("wb") as file:
            for part in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}, content):
                pickle.dump(part, file, protocol=2)
        return
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps(content, protocol=2))


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize(
    ("call", "named"),
    [
        (lambda proof: Call(os.system, f"touch {proof}"), "posix.system"),
        (lambda proof: Call(eval, f"open({str(proof)!r}, 'w')"), "builtins.eval|__builtin__.eval"),
        (lambda proof: Call(getattr, os, "environ"), "os.path"),
        (lambda proof: Call(getattr, collections.OrderedDict, "fromkeys"), "getattr"),
        (lambda proof: Call(getattr, {}, "clear"), "getattr"),
        (lambda proof: os.path.join, "posixpath.join"),
        (lambda proof: Call(np.save, proof, np.zeros(1)), "numpy"),
        (lambda proof: collections.Counter("ab"), "collections.Counter"),
    ],
    ids=["system", "eval", "getattr", "getattr2", "getattr3", "global", "numpy", "class"],
)
def test_pickles_that_call_anything_are_refused_and_not_run(tmp_path, call, named, legacy):
    proof, path = tmp_path / "proof", tmp_path / "evil.pth"
    try:
        with_pickle(path, {"model": call(proof)}, legacy)
    except TypeError:  # modules cannot be pickled: name one by hand
        body = b"\x80\x02cbuiltins\ngetattr\ncos\npath\nX\x04\x00\x00\x00join\x86R."
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("archive/data.pkl", body)
    with pytest.raises(UserError, match=rf"evil\.pth was not read: it wants to call .*({named})"):
        torch_file.load(path)
    assert not proof.exists()


class HistoryBuffer:
    """Like mmengine's: its state names methods, which protocol 2 writes as calls of getattr."""

    def __getstate__(self):
        return {"log": np.arange(3.0), "methods": {"min": HistoryBuffer.min}}

    def min(self):
        pass


def test_files_with_logs_of_mmengine_are_read(tmp_path, monkeypatch):
    name = "mmengine.logging.history_buffer"
    module = types.ModuleType(name)
    module.HistoryBuffer = HistoryBuffer
    monkeypatch.setitem(sys.modules, "mmengine", types.ModuleType("mmengine"))
    monkeypatch.setitem(sys.modules, "mmengine.logging", types.ModuleType("mmengine.logging"))
    monkeypatch.setitem(sys.modules, name, module)
    for part in (HistoryBuffer, HistoryBuffer.min):
        monkeypatch.setattr(part, "__module__", name)
    logs = collections.OrderedDict({"train/loss": HistoryBuffer()})
    assert b"getattr" in pickle.dumps(logs, protocol=2)
    weights = {"a.weight": np.ones([2], np.float32)}
    writers.write_pth(tmp_path / "m.pth", {"message_hub": logs, "state_dict": weights})
    found = torch_file.load(tmp_path / "m.pth")
    assert list(found["message_hub"]) == ["train/loss"]
    assert_same(found["state_dict"], weights)


def damaged(path, change):
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    change(members)
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)


@pytest.mark.parametrize(
    "change",
    [
        lambda members: members.update({"archive/data/0": members["archive/data/0"][:-1]}),
        lambda members: members.pop("archive/data/0"),
        lambda members: members.update({"archive/byteorder": b"big"}),
        lambda members: members.update({"archive/data.pkl": members["archive/data.pkl"][:40]}),
        lambda members: members.pop("archive/data.pkl"),
        lambda members: members.update({"other/data.pkl": b"."}),
    ],
    ids=["cut", "missing", "big-endian", "cut pickle", "no pickle", "two pickles"],
)
def test_damaged_zips_are_refused_in_one_sentence(tmp_path, change):
    path = tmp_path / "a.pth"
    writers.write_pth(path, CONTENT)
    damaged(path, change)
    with pytest.raises(UserError, match=r"a\.pth (was not read|is not a whole PyTorch file)"):
        torch_file.load(path)


@pytest.mark.parametrize("cut", [3, 30, 200, -1])
def test_damaged_legacy_files_are_refused_in_one_sentence(tmp_path, cut):
    path = tmp_path / "a.pth"
    writers.write_pth(path, CONTENT, legacy=True)
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(UserError, match=r"a\.pth (was not read|is not a whole PyTorch file)"):
        torch_file.load(path)


def test_a_legacy_storage_of_another_length_is_refused(tmp_path):
    path = tmp_path / "a.pth"
    writers.write_pth(path, {"x": np.arange(4, dtype=np.float32)}, legacy=True)
    content = path.read_bytes()
    assert content[-24:-16] == struct.pack("<q", 4)
    path.write_bytes(content[:-24] + struct.pack("<q", 2**60) + content[-16:])
    with pytest.raises(UserError, match="the storage '0' is cut"):
        torch_file.load(path)


def test_other_files_are_refused_in_one_sentence(tmp_path):
    (tmp_path / "a.pth").write_bytes(b"no pickle")
    with pytest.raises(UserError, match="begins with b'no pickl' and is not a PyTorch file"):
        torch_file.load(tmp_path / "a.pth")
    (tmp_path / "a.pth").write_bytes(b"")
    with pytest.raises(UserError, match="a.pth was not read: it is empty; get it again"):
        torch_file.load(tmp_path / "a.pth")
    with pytest.raises(UserError, match="does not exist"):
        torch_file.load(tmp_path / "b.pth")


@pytest.mark.parametrize("zipped", [True, False])
def test_everything_is_as_torch_reads_it(tmp_path, zipped):
    torch = pytest.importorskip("torch")
    base = torch.arange(24, dtype=torch.float32)
    content = {
        "model": collections.OrderedDict(
            whole=base,
            view=base[3:15].reshape(3, 4).t(),
            every=base[::5],
            half=base.half(),
            brain=(base / 7).bfloat16(),
            count=torch.tensor(3),
            flags=base > 4,
            parameter=torch.nn.Parameter(base.reshape(2, 12)),
        ),
        "optimizer": {"state": {0: {"momentum_buffer": base * 2}}, "lr": 0.1},
        "best_miou": np.float64(0.7),
        "history": np.arange(3),
        "seen": {1, 2},
        "kind": [torch.float32, torch.device("cpu"), torch.Size([2, 3])],
        "meters": collections.defaultdict(list, loss=[1.0]),
    }
    path = tmp_path / "a.pth"
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    found = torch_file.load(path)
    for name, tensor in content["model"].items():
        np.testing.assert_array_equal(found["model"][name], tensor.detach().float().numpy())
    np.testing.assert_array_equal(
        found["optimizer"]["state"][0]["momentum_buffer"], base.numpy() * 2
    )


def test_a_description_cannot_be_changed_after_its_check(tmp_path):
    """The instruction BUILD of a pickle can set attributes of an object that was made before."""
    path = tmp_path / "a.pth"
    writers.write_pth(path, {"x": np.zeros(1, np.float32)})
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    content = members["archive/data.pkl"]
    at = content.rindex(b"R")  # the call that made the tensor
    build = pickle.dumps({"shape": (1000,)}, protocol=2)[2:-1] + b"b"
    members["archive/data.pkl"] = content[: at + 1] + build + content[at + 1 :]
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    with pytest.raises(UserError, match="after the fact"):
        torch_file.load(path)


def test_a_zip_header_with_a_wrong_size_is_noticed(tmp_path, monkeypatch):
    path = tmp_path / "a.pth"
    writers.write_pth(path, {"x": np.zeros(100, np.float32)})
    read = zipfile.ZipFile.read
    short = lambda archive, name: read(archive, name)[:4]  # noqa: E731
    monkeypatch.setattr(
        zipfile.ZipFile,
        "read",
        lambda a, n: short(a, n) if getattr(n, "file_size", 0) == 400 else read(a, n),
    )
    with pytest.raises(UserError, match="the storage '0' is cut"):
        torch_file.load(path)


def text(content):
    return b"X" + struct.pack("<I", len(content)) + content.encode()


def doubled(times):
    """A tuple of twice the tuple before, and so on: 2 ** times empty ones when written out."""
    return b")" + b"".join(b"q%ch%c\x86" % (i, i) for i in range(times))


TENSOR = b"ctorch._utils\n_rebuild_tensor_v2\n"
FLOATS = b"ctorch\nFloatStorage\n"
SIZE = b"ctorch\nSize\n"
PAIRS = b"ccollections\nOrderedDict\n"
STORAGE = b"(" + text("storage") + FLOATS
HUGE = b"\x8b" + struct.pack("<i", 10**6) + b"\x01" * 10**6  # a number of a million bytes
ODD = {
    "tuple as key": (b"}" + doubled(44) + b"Ns", "uses something of type tuple as a key"),
    "number as key": (b"}" + HUGE + b"Ns", "uses something of type int as a key"),
    "text as key": (b"}" + text("x" * 5000) + b"Ns", "uses a very long text as a key"),
    "tuple in storage": (
        STORAGE + doubled(44) + text("cpu") + b"K\x01tQ",
        "storage by something",
    ),
    "name of storage": (
        STORAGE + text("x" * 5000) + text("cpu") + b"K\x01tQ",
        "storage by something",
    ),
    "size of storage": (
        STORAGE + text("x") + text("cpu") + HUGE + b"tQ",
        "storage by something",
    ),
    "metadata": (TENSOR + b"(NK\x00))NN" + doubled(44) + b"tR", "must be changed when it is read"),
    "offset": (
        TENSOR + b"(N" + HUGE + b"))NNtR",
        "describes a tensor by something other than counts",
    ),
    "axes": (TENSOR + b"(NK\x00(" + b"K\x01" * 99 + b"tq\x00h\x00NNtR", "differ in length"),
    "sizes": (
        SIZE + b"q\x00(" + b"N" * 999 + b"lq\x01]" + b"h\x00h\x01\x85Ra" * 99,
        "makes many containers",
    ),
    "dicts": (
        PAIRS + b"q\x00(" + b"NN\x86" * 999 + b"lq\x01]" + b"h\x00h\x01\x85Ra" * 99,
        "makes many containers of the same items",
    ),
    "arguments": (
        PAIRS + b"(" + b"N" * 99 + b"tR",
        "a tuple of a few arguments",
    ),
    "state of a function": (TENSOR + b"}" + text("__doc__") + text("x") + b"sb", "after the fact"),
    "state of a type": (FLOATS + b"}" + text("name") + text("x") + b"sb", "after the fact"),
    "items of a type": (FLOATS + text("name") + text("x") + b"s", "sets items of something of"),
    "longer than the file": (b"\x8e" + struct.pack("<Q", 1 << 40) + b"x", "is cut|but only"),
    "name": (b"c" + b"x" * 5000 + b"\nx\n", r"wants to call x+\.\.\., which may do harm"),
    "many": (b"]" * 5_000, "has more than 5000 instructions"),
    "deep": (b"N" + b"\x85" * 999, "nested too deeply"),
    "in itself": (b"]q\x00h\x00a", "nested too deeply"),
    "nothing on the stack": (b"0", "is not a whole PyTorch file"),
    "no mark": (b"NNt", "is not a whole PyTorch file"),
    "other instruction": (b"N2", "its instruction DUP does not occur in files of weights"),
}


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("name", ODD)
def test_odd_pickles_are_refused_in_little_time_and_memory(tmp_path, monkeypatch, name, legacy):
    monkeypatch.setattr(pickles, "_MOST_INSTRUCTIONS", 5_000)
    program, said = ODD[name]
    path = tmp_path / "odd.pth"
    if legacy:
        with_pickle(path, None, legacy=True)
        path.write_bytes(path.read_bytes()[: -len(pickle.dumps(None, protocol=2))])
        path.write_bytes(path.read_bytes() + b"\x80\x02" + program + b"." + pickle.dumps([], 2))
    else:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("archive/data.pkl", b"\x80\x02" + program + b".")

    tracemalloc.start()
    begin = time.process_time()
    with pytest.raises(UserError, match=f"^{path} .*({said})") as error:
        torch_file.load(path)
    seconds, (_, most) = time.process_time() - begin, tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert seconds < 5 and most < 100 * path.stat().st_size + 1_000_000
    assert len(str(error.value)) < 600 and str(error.value).isprintable()


def test_a_directory_that_lists_more_than_the_file_has_is_refused(tmp_path):
    """Entries that share their bytes, as in zip bombs."""
    whole = np.zeros(10_000, np.float32)
    path = tmp_path / "a.pth"
    writers.write_pth(path, {str(n): whole + n for n in range(3)})
    with zipfile.ZipFile(path, "a") as archive:
        first = archive.getinfo("archive/data/0")
        for n in (1, 2):
            archive.getinfo(f"archive/data/{n}").header_offset = first.header_offset
        first.file_size = first.compress_size = 10**9
        archive.comment = b"written again"
    with pytest.raises(UserError, match="the members of its zip file are larger than the file"):
        torch_file.load(path)


def test_many_views_of_one_storage_are_refused(tmp_path):
    """Each view is small work, but whoever checks or copies them all needs a lot of it."""
    views = [np.zeros(1000, np.float32) for _ in range(40)]
    claims = {id(view): (n, (900,), (1,)) for n, view in enumerate(views)}
    path = tmp_path / "a.pth"
    writers.write_pth(path, {"views": views}, described=claims)

    def share(members):
        content = members["archive/data.pkl"]
        for n in range(1, 40):
            key = str(n).encode()
            entry = b"X" + struct.pack("<I", len(key)) + key
            content = content.replace(entry, text("0"))
            del members[f"archive/data/{n}"]
        members["archive/data.pkl"] = content

    damaged(path, share)
    with pytest.raises(UserError, match="its tensors are many times larger than the file"):
        torch_file.load(path)


def test_what_python_2_wrote_is_read(tmp_path):
    """It gives an OrderedDict its pairs as one list; state dicts also have attributes."""
    program = b"\x80\x02" + PAIRS + b"](](U\x01aK\x01e](U\x01bK\x02ee\x85R}U\x09_metadataNsb."
    with zipfile.ZipFile(tmp_path / "a.pth", "w") as archive:
        archive.writestr("archive/data.pkl", program)
    assert torch_file.load(tmp_path / "a.pth") == {"a": 1, "b": 2}


def test_small_files_do_not_become_large(tmp_path):
    nested: list = ["x"]
    for _ in range(30):
        nested = [nested, nested]  # 2^30 leaves
    with_pickle(tmp_path / "laugh.pth", nested)
    assert torch_file.load(tmp_path / "laugh.pth")
    whole = np.zeros(1000, np.float32)
    writers.write_pth(tmp_path / "many.pth", {"x": [whole] * 5000})
    found = torch_file.load(tmp_path / "many.pth")["x"]
    assert len(found) == 5000 and found[0] is found[4999]
    with zipfile.ZipFile(tmp_path / "bomb.pth", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", pickle.dumps("x" * 10**7))
    with pytest.raises(UserError, match="not PyTorch's"):
        torch_file.load(tmp_path / "bomb.pth")
    with zipfile.ZipFile(tmp_path / "order.pth", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", pickle.dumps({}), zipfile.ZIP_STORED)
        archive.writestr("archive/byteorder", "little")  # compressed, it could be of any size
    with pytest.raises(UserError, match="its byteorder is not 'little'"):
        torch_file.load(tmp_path / "order.pth")
    memo = b"\x80\x02X\x01\x00\x00\x00ar\xff\xff\xff\x7f."  # LONG_BINPUT 2^31 - 1
    with zipfile.ZipFile(tmp_path / "memo.pth", "w") as archive:
        archive.writestr("archive/data.pkl", memo)
    assert torch_file.load(tmp_path / "memo.pth") == "a"
