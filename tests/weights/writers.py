"""Weights files as the ancestors' programs write them, made without those programs."""

import collections
import io
import pickle
import struct
import sys
import tempfile
import types
import zipfile
from pathlib import Path

import numpy as np
import tensorflow as tf

STORAGES = {
    "float32": "FloatStorage",
    "float64": "DoubleStorage",
    "float16": "HalfStorage",
    "int64": "LongStorage",
    "int32": "IntStorage",
    "uint8": "ByteStorage",
    "bool": "BoolStorage",
}


class _Storage:
    def __init__(self, kind, key, array):
        self.kind, self.key, self.array = kind, key, array


class _Pickler(pickle.Pickler):
    """Pickles numpy arrays as PyTorch pickles its tensors."""

    def __init__(self, file, modules, tensors=None):
        super().__init__(file, protocol=2)
        self.modules, self.storages = modules, []
        self.described = tensors or {}

    def persistent_id(self, obj):
        if not isinstance(obj, _Storage):
            return None
        kind = getattr(self.modules["torch"], obj.kind)
        return ("storage", kind, obj.key, "cpu", obj.array.size)

    def reducer_override(self, obj):
        if not isinstance(obj, np.ndarray):
            return NotImplemented
        whole = np.ascontiguousarray(obj)
        storage = _Storage(STORAGES[str(obj.dtype)], str(len(self.storages)), whole)
        self.storages.append(storage)
        strides = tuple(step // whole.itemsize for step in whole.strides)[: obj.ndim]
        offset, shape, strides, *metadata = self.described.get(id(obj), (0, obj.shape, strides))
        rebuild = self.modules["torch._utils"]._rebuild_tensor_v2
        hooks = collections.OrderedDict()
        return rebuild, (storage, offset, shape, strides, False, hooks, *metadata)


def _torch_modules():
    """Stand-ins with PyTorch's names, so that pickles hold the names that PyTorch writes."""
    torch, utils = types.ModuleType("torch"), types.ModuleType("torch._utils")
    for name in STORAGES.values():
        setattr(torch, name, type(name, (), {"__module__": "torch"}))

    def _rebuild_tensor_v2():
        pass

    _rebuild_tensor_v2.__module__ = "torch._utils"
    _rebuild_tensor_v2.__qualname__ = "_rebuild_tensor_v2"
    utils._rebuild_tensor_v2 = _rebuild_tensor_v2
    return {"torch": torch, "torch._utils": utils}


def write_pth(path: Path, content, *, described=None, legacy: bool = False) -> None:
    """Writes what torch.save(content, path) writes for dicts of arrays.

    Args:
      described: id of an array -> the (offset, shape, strides) that the file claims for it, and
        optionally its metadata.
      legacy: the format of PyTorch before 1.6.
    """
    modules, saved = _torch_modules(), dict(sys.modules)
    sys.modules.update(modules)
    try:
        buffer = io.BytesIO()
        pickler = _Pickler(buffer, modules, described)
        pickler.dump(content)
    finally:
        for name in modules:
            sys.modules.pop(name)
            if name in saved:
                sys.modules[name] = saved[name]
    if legacy:
        with path.open("wb") as file:
            for head in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}):
                pickle.dump(head, file, protocol=2)
            file.write(buffer.getvalue())
            pickle.dump([storage.key for storage in pickler.storages], file, protocol=2)
            for storage in pickler.storages:
                file.write(np.int64(storage.array.size).tobytes() + storage.array.tobytes())
        return
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", buffer.getvalue())
        archive.writestr("archive/byteorder", "little")
        for storage in pickler.storages:
            archive.writestr(f"archive/data/{storage.key}", storage.array.tobytes())


def write_index(path: Path, entries: dict[bytes, bytes]) -> None:
    """Writes the .index file of a checkpoint with any entries, under checksums that are right.

    Args:
      entries: encoded BundleEntryProtos by names, and a BundleHeaderProto under b"".
    """

    def block(pairs):
        body = b"".join(
            b"\0" + _varint(len(key)) + _varint(len(value)) + key + value for key, value in pairs
        )
        return body + struct.pack("<II", 0, 1)  # one place where keys are written out

    def add(content):
        handle = _varint(len(table)) + _varint(len(content))
        table.extend(content + b"\0" + masked_crc(content + b"\0"))
        return handle

    table = bytearray()
    handle = add(block(sorted(entries.items())))
    footer = add(block([])) + add(block([(max(entries) + b"~", handle)]))
    path.write_bytes(table + footer.ljust(40, b"\0") + bytes.fromhex("57fb808b247547db"))


def _varint(number: int) -> bytes:
    low, high = number & 127, number >> 7
    return bytes([low | 128]) + _varint(high) if high else bytes([low])


def masked_crc(content: bytes) -> bytes:
    """Returns the checksum that TensorFlow's files have: the one at the end of a record."""
    with tempfile.NamedTemporaryFile() as file:
        with tf.io.TFRecordWriter(file.name) as writer:
            writer.write(content)
        return Path(file.name).read_bytes()[-4:]


def write_tf1_checkpoint(prefix: Path, arrays: dict[str, np.ndarray]) -> None:
    """Saves variables by the Saver of TensorFlow 1."""
    prefix.parent.mkdir(parents=True, exist_ok=True)
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        variables, feed = {}, {}
        for name, array in arrays.items():
            value = tf.compat.v1.placeholder(array.dtype, array.shape)
            variables[name] = tf.compat.v1.get_variable(name, initializer=value)
            feed[value] = array
        session.run(tf.compat.v1.global_variables_initializer(), feed)
        tf.compat.v1.train.Saver(variables).save(session, str(prefix), write_meta_graph=False)


def write_frozen_graph(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """Writes the graph that freezing makes: constants in place of variables, and what reads them.

    There are some constants in between that were no variables, as in every graph.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with tf.Graph().as_default() as graph:
        tf.compat.v1.placeholder(tf.uint8, [1, None, None, 3], name="ImageTensor")
        tf.constant([[0, 0], [1, 1], [1, 1], [0, 0]], name="MobilenetV2/Pad/paddings")
        tf.constant(0.5, name="MobilenetV2/Conv/Relu6/y")
        for name, array in arrays.items():
            tf.identity(tf.constant(array, name=name), name=f"{name}/read")
    path.write_bytes(graph.as_graph_def().SerializeToString())
