"""Damages bytes as disks, cut downloads and strangers do."""

import random

_INTERESTING = (0, 1, 0x7F, 0x80, 0xFF)


def mutated(content: bytes, rng: random.Random) -> bytes:
    """Returns `content` with one to three changes: flipped, set, removed, doubled or cut bytes."""
    data = bytearray(content)
    for _ in range(rng.choice((1, 1, 2, 3))):
        if not data:
            break
        start = rng.randrange(len(data))
        end = min(len(data), start + rng.choice((1, 1, 2, 4, 16, 200)))
        change = rng.randrange(6)
        if change == 0:
            data[start] ^= 1 << rng.randrange(8)
        elif change == 1:
            data[start:end] = bytes(rng.choice(_INTERESTING) for _ in range(end - start))
        elif change == 2:
            data[start:end] = rng.randbytes(end - start)
        elif change == 3:
            del data[start:end]
        elif change == 4:
            data[start:start] = data[start:end]
        else:
            del data[start:]
    return bytes(data)
