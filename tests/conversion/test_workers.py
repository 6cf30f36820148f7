import threading

import pytest

from deeplab_tf.conversion import workers
from deeplab_tf.conversion.encoding import BadFile, FilePair
from deeplab_tf.messages import UserError


def test_the_caller_encodes_too_and_the_order_stays(tmp_path):
    """The first pair takes until another thread has begun a later one."""
    pairs = [FilePair(str(number), tmp_path / "image.png", None) for number in range(30)]
    later = threading.Event()
    seen = set()

    def encode(pair):
        seen.add(threading.get_ident())
        if pair.name == "0":
            assert later.wait(60)
            raise UserError("0 is bad")
        later.set()
        if pair.name == "9":
            raise UserError("9 is bad")
        return pair.name

    found = workers.encode_all(pairs, encode, num_processes=2, skip_bad=True)
    expected = [str(number) for number in range(30)]
    expected[0], expected[9] = BadFile("0", "0 is bad"), BadFile("9", "9 is bad")
    assert list(found) == expected
    assert len(seen) == 2 and threading.get_ident() in seen
    later.clear()
    with pytest.raises(UserError, match="0 is bad"):
        list(workers.encode_all(pairs, encode, num_processes=2))
