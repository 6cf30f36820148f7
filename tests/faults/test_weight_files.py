"""Weights files of strangers are read in little time and memory, or refused in one sentence."""

import pickle
import struct
import time
import tracemalloc
import zipfile

import numpy as np

from deeplab_tf.config import ModelConfig
from deeplab_tf.messages import UserError
from deeplab_tf.weights import checkpoint_index, mapping, torch_file
from deeplab_tf.weights.official import variables
from tests.faults.mutations import mutated
from tests.weights import writers

SECONDS = 2  # of processor time
BYTES_PER_BYTE, BYTES_MORE = 300, 5_000_000


def read(load, size):
    """Returns what `load` returns, or None for a proper refusal; bounds its time and memory.

    Args:
      size: bytes of the files that it reads.
    """
    tracemalloc.start()
    begin = time.process_time()
    try:
        return load()
    except UserError as error:
        sentence = str(error)
        assert len(sentence) < 600 and sentence.isprintable(), sentence
        return None
    finally:
        seconds, (_, most) = time.process_time() - begin, tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert seconds < SECONDS, f"{seconds} seconds"
        assert most < BYTES_PER_BYTE * size + BYTES_MORE, f"{most} bytes for {size}"


def arrays_in(value, seen):
    """Yields the arrays in nested containers; looks at each container once."""
    if isinstance(value, np.ndarray):
        yield value
    elif isinstance(value, dict | list) and id(value) not in seen:
        seen.add(id(value))
        for item in value.values() if isinstance(value, dict) else value:
            yield from arrays_in(item, seen)


def check(path):
    """Reads a .pth file, and passes its arrays on as weights."""
    size = path.stat().st_size
    content = read(lambda: torch_file.load(path), size)
    total = 0
    for array in arrays_in(content, set()):
        total += array.size
        source = mapping.Source("a file", ModelConfig(), 0, {"x": array}, {"x": "x"})
        sound = read(lambda source=source: mapping.sound(source, str(path)), size)
        assert sound is None or np.isfinite(sound.arrays["x"]).all()
    assert total <= 8 * size


def drawn(rng):
    """Returns a state dict with some arrays."""
    kinds = ("float32", "float64", "float16", "int64", "int32", "uint8", "bool")
    shapes = [rng.sample((0, 1, 2, 3, 5), rng.randrange(4)) for _ in range(rng.randrange(1, 5))]
    arrays = {
        f"layer{index}.weight": np.full(shape, rng.randrange(9)).astype(rng.choice(kinds))
        for index, shape in enumerate(shapes)
    }
    return {"state_dict": arrays, "epoch": rng.randrange(2**70), "names": ["a", ("b", 1.5)]}


def test_damaged_pth_files(fuzz):
    def attempt(rng, folder):
        path = folder / "a.pth"
        writers.write_pth(path, drawn(rng), legacy=rng.random() < 0.5)
        path.write_bytes(mutated(path.read_bytes(), rng))
        check(path)

    fuzz(attempt, tries=100)


def test_pth_files_with_damage_under_right_checksums(fuzz):
    """Damage inside the pickle: a zip's checksum would hide most of it."""

    def attempt(rng, folder):
        path = folder / "a.pth"
        writers.write_pth(path, drawn(rng))
        with zipfile.ZipFile(path) as archive:
            members = {name: archive.read(name) for name in archive.namelist()}
        with zipfile.ZipFile(path, "w") as archive:
            for name, content in members.items():
                is_hit = name.endswith("data.pkl") or rng.random() < 0.1
                archive.writestr(name, mutated(content, rng) if is_hit else content)
        check(path)

    fuzz(attempt, tries=100)


def text(content):
    return b"X" + struct.pack("<I", len(content)) + content.encode()


NAMES = {
    "Size": b"ctorch\nSize\n",
    "tensor": b"ctorch._utils\n_rebuild_tensor_v2\n",
    "parameter": b"ctorch._utils\n_rebuild_parameter\n",
    "OrderedDict": b"ccollections\nOrderedDict\n",
    "getattr": b"c__builtin__\ngetattr\n",
    "metadata": b"ccollections\ndefaultdict\n",
    "type": b"ctorch\nFloatStorage\n",
}
MADE = {"OrderedDict": "dict", "Size": "tuple", "metadata": "metadata"}
NUMBERS = (0, 1, 2, 63, 2**31 - 1)
MARK = "mark"


class Program:
    """A pickle of random instructions that find on the stack what they need.

    `kinds` says what each value on the stack is, as far as this is known.
    """

    def __init__(self, rng):
        self.rng, self.parts, self.kinds, self.memo = rng, [], [], {}

    def add(self, code, kind=None, *, taken=0):
        self.parts.append(code)
        del self.kinds[len(self.kinds) - taken :]
        if kind:
            self.kinds.append(kind)

    def content(self, steps):
        """Returns the pickle of a tuple with all that is left on the stack."""
        self.add(b"\x80\x02(", MARK)
        for _ in range(steps):
            self.rng.choice(self.moves())()
        return b"".join(self.parts) + b"t" * self.kinds.count(MARK) + b"."

    def number(self):
        return b"J" + struct.pack("<i", self.rng.choice(NUMBERS))

    def moves(self):
        """Returns what can come next; what joins values comes more often than what makes them."""
        kinds, rng = self.kinds, self.rng
        free = kinds[::-1].index(MARK)  # values since the last mark
        name = rng.choice(list(NAMES))
        key = text(rng.choice(("a", "b", "x" * 300)))
        moves = [
            lambda: self.add(rng.choice((self.number(), b"N", key)), "value"),
            lambda: self.add(*rng.choice(((b")", "tuple"), (b"]", "list"), (b"}", "dict")))),
            lambda: self.add(b"(", MARK),
            lambda: self.add(NAMES[name], name),
            lambda: self.add(self.storage(), "storage"),
            lambda: self.add(self.tensor(), "tensor"),
        ]
        if self.memo:
            place = rng.choice(list(self.memo))
            moves += [lambda: self.add(b"h%c" % place, self.memo[place])] * 4
        if free:
            moves += [self.put, self.put, self.double]
            moves += [lambda: self.add(b"\x85", "tuple", taken=1)]
        if free > 1:
            moves += [lambda: self.add(b"\x86", "tuple", taken=2)] * 3
            moves += [lambda: self.add(b"a", taken=1)] * 3 * (kinds[-2] == "list")
            moves += [lambda: self.add(b"b", taken=1)] * (kinds[-2] in ("dict", "metadata"))
            if kinds[-1] == "tuple" and kinds[-2] in NAMES:
                made = MADE.get(kinds[-2], "value")
                often = 9 if kinds[-2] in MADE else rng.random() < 0.1
                moves += [lambda: self.add(b"R", made, taken=2)] * often
        if free > 2 and kinds[-3] == "dict":
            moves += [lambda: self.add(b"s", taken=2)] * 3
        if kinds.count(MARK) > 1:
            moves += [lambda: self.add(b"t", "tuple", taken=free + 1)]
            moves += [lambda: self.add(b"l", "list", taken=free + 1)]
        return moves

    def put(self):
        place = self.rng.randrange(8)
        self.memo[place] = self.kinds[-1]
        self.add(b"q%c" % place)

    def double(self):
        """Makes a tuple of twice the last value, and so on."""
        for _ in range(self.rng.randrange(40)):
            self.add(b"q\x09h\x09\x86", "tuple", taken=1)

    def storage(self):
        count = b"K%c" % (64 if self.rng.random() < 0.99 else 63)
        return b"(" + text("storage") + NAMES["type"] + text("0") + text("cpu") + count + b"tQ"

    def tensor(self):
        offset, side, stride = (b"K%c" % self.rng.choice(few) for few in ((0, 1), (1, 60), (1, 1)))
        if self.rng.random() < 0.02:
            offset, side, stride = self.number(), self.number(), self.number()
        view = offset + side + b"\x85" + stride + b"\x85"
        return NAMES["tensor"] + b"(" + self.storage() + view + b"\x89NtR"


def test_pickles_of_random_instructions(fuzz):
    def attempt(rng, folder):
        path = folder / "a.pth"
        program = Program(rng).content(rng.choice((10, 30, 100, 300, 3000)))
        cells = rng.choice((1, 63, 64, 64, 64, 64))
        if rng.random() < 0.5:
            with zipfile.ZipFile(path, "w") as archive:
                archive.writestr("archive/data.pkl", program)
                archive.writestr("archive/data/0", bytes(4 * cells))
        else:
            heads = (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True})
            keys = pickle.dumps(["0"], 2) + struct.pack("<q", cells)
            content = b"".join(pickle.dumps(head, 2) for head in heads) + program + keys
            path.write_bytes(content + bytes(4 * cells))
        check(path)

    fuzz(attempt, tries=150)


def test_damaged_checkpoints_of_tensorflow_1(fuzz, tmp_path_factory):
    """Some with right checksums: TensorFlow believes these, and may end the whole process."""
    whole = tmp_path_factory.mktemp("checkpoint") / "a"
    arrays = {"resnet_v1_50/x": np.ones((2, 3), "f"), "b": np.zeros(5, "i"), "c": np.ones((), "f")}
    writers.write_tf1_checkpoint(whole, arrays)
    endings = (".index", ".data-00000-of-00001")
    contents = {ending: whole.with_name(f"a{ending}").read_bytes() for ending in endings}

    def attempt(rng, folder):
        for ending, content in contents.items():
            is_hit = rng.random() < 0.5
            (folder / f"a{ending}").write_bytes(mutated(content, rng) if is_hit else content)
        if rng.random() < 0.7:
            entries = dict(checkpoint_index._entries(contents[".index"]))
            name = rng.choice(sorted(entries))
            entries[name] = mutated(entries[name], rng)
            writers.write_index(folder / "a.index", entries)

        prefix = str(folder / "a")
        checkpoint = read(lambda: variables.Checkpoint(prefix), 1000)
        for name in checkpoint or ():
            array = read(lambda name=name: checkpoint[name], 1000)
            assert array is None or array.nbytes <= sum(map(len, contents.values()))

    fuzz(attempt, tries=150)


def test_damaged_frozen_graphs(fuzz, tmp_path_factory):
    """Some with damage inside the description of a constant, which may then claim any size."""
    path = tmp_path_factory.mktemp("graph") / "a.pb"
    names = ("MobilenetV2/Conv/weights", "MobilenetV2/Conv/BatchNorm/gamma", "logits/biases")
    writers.write_frozen_graph(path, {name: np.ones((2, 3), "f") for name in names})
    content = path.read_bytes()

    def attempt(rng, folder):
        damaged = mutated(content, rng)
        if rng.random() < 0.7:
            graph = variables.tf.compat.v1.GraphDef.FromString(content)
            tensor = rng.choice([node for node in graph.node if node.op == "Const"])
            tensor = tensor.attr["value"].tensor
            if rng.random() < 0.5:
                tensor.ClearField("tensor_content")
                tensor.float_val.extend([1.0] * rng.randrange(3))
            for axis in tensor.tensor_shape.dim:
                axis.size = rng.choice((axis.size, -1, 0, 1, 2**31, 2**62))
            tensor.dtype = rng.choice((tensor.dtype, 0, 2, 3, 7, 19, 99, 101))
            damaged = graph.SerializeToString()
        (folder / "a.pb").write_bytes(damaged)

        graph = read(lambda: variables.FrozenGraph(str(folder / "a.pb")), len(content))
        for name in graph or ():
            array = read(lambda name=name: graph[name], len(content))
            assert array is None or array.nbytes <= 8 * len(damaged)

    fuzz(attempt, tries=150)
