"""Indices with right checksums, which TensorFlow believes: it ends the process, or hangs."""

import re
import struct

import numpy as np
import pytest
from tensorflow.core.protobuf import tensor_bundle_pb2

from deeplab_tf.messages import UserError
from deeplab_tf.weights import checkpoint_index
from deeplab_tf.weights.official import variables
from tests.weights import writers

NAME = "resnet_v1_50/block1/unit_1/x"
DATA = np.arange(3, dtype=np.float32).tobytes()
FLOAT, TEXT = 1, 7


def entry(*sides, dtype=FLOAT, size=12, unknown_rank=False, **fields):
    message = tensor_bundle_pb2.BundleEntryProto(dtype=dtype, size=size, **fields)
    for side in sides:
        message.shape.dim.add(size=side)
    message.shape.unknown_rank = unknown_rank
    (message.crc32c,) = struct.unpack("<I", writers.masked_crc(DATA))
    return message.SerializeToString()


def header(num_shards=1):
    return tensor_bundle_pb2.BundleHeaderProto(num_shards=num_shards).SerializeToString()


def written(folder, *values, head=None):
    entries = {f"{NAME}{number}".encode(): value for number, value in enumerate(values)}
    writers.write_index(folder / "a.index", {b"": header() if head is None else head} | entries)
    (folder / "a.data-00000-of-00001").write_bytes(DATA)
    return str(folder / "a")


def test_a_proper_index_is_read(tmp_path):
    checkpoint = variables.Checkpoint(written(tmp_path, entry(3)))
    np.testing.assert_array_equal(checkpoint[f"{NAME}0"], [0, 1, 2])


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ([entry(2**40)], "12 bytes for 4398046511104"),
        ([entry(2**40, 2**40)], "12 bytes for 4835703278458516698824704"),
        ([entry(0, 2**62, 2**62, size=0)], "0 bytes for"),
        ([entry(2**33, size=2**35)], "more bytes than the checkpoint has"),
        ([entry(3), entry(3)], "more bytes than the checkpoint has"),
        ([entry(2**30, dtype=TEXT)], "12 bytes for 1073741824"),
        ([entry(-5)], "a shape that no weight has"),
        ([entry(*[1] * 300, size=4)], "a shape that no weight has"),
        ([entry(unknown_rank=True)], "a shape that no weight has"),
        ([entry(3, dtype=0)], "the unknown type 0"),
        ([entry(3, dtype=99)], "the unknown type 99"),
        ([entry(3, dtype=101)], "the type float32_ref"),
        ([entry(3, dtype=20)], "the type resource"),
        ([entry(3, offset=-5)], "a place before the file's begin"),
        ([b"\xff\xff"], "no description"),
    ],
)
def test_what_no_checkpoint_describes_is_refused(tmp_path, values, said):
    prefix = written(tmp_path, *values)
    message = f"^{prefix} is damaged at '{NAME}.': its .index gives it .*{said}.*; fetch all files"
    with pytest.raises(UserError, match=message):
        variables.Checkpoint(prefix)


@pytest.mark.parametrize("head", [b"\xff", header(0), header(2**30), header(-1)])
def test_an_index_needs_a_header(tmp_path, head):
    with pytest.raises(UserError, match=r"cannot be read .*: its \.index has no header"):
        variables.Checkpoint(written(tmp_path, entry(3), head=head))


def test_every_cut_and_every_changed_byte_of_an_index_is_noticed(tmp_path):
    """By this check or, where it asks for less than the files hold, by TensorFlow's checksums."""
    prefix = written(tmp_path, entry(3))
    path = tmp_path / "a.index"
    whole = path.read_bytes()
    cuts = [whole[:end] for end in range(len(whole))]
    for damaged in cuts:
        path.write_bytes(damaged)
        with pytest.raises(UserError, match=f"^{re.escape(prefix)} "):
            checkpoint_index.require_proper(prefix)

    for position in range(0, len(whole), 3):
        damaged = bytearray(whole)
        damaged[position] ^= 0x55
        path.write_bytes(damaged)
        try:
            found = variables.Checkpoint(prefix)
            read = {name: found[name].tolist() for name in found}
        except UserError as error:
            assert len(str(error)) < 600
        else:
            assert read == {f"{NAME}0": [0, 1, 2]}  # what is changed is not used
