"""Damage files at random."""

import numpy as np


def mutate(data: bytes, rng: np.random.Generator) -> bytes:
    """Change bytes (most often of the header), cut, repeat, drop or fill a part."""
    found, kind = bytearray(data), rng.integers(5)
    start = int(rng.integers(min(len(found), 64 if rng.random() < 0.6 else len(found))))
    stop = start + int(rng.integers(1, 64))
    if kind == 0:
        for place in rng.integers(start, min(stop, len(found)) or 1, int(rng.integers(1, 5))):
            found[place] = rng.integers(256)
    elif kind == 1:
        del found[int(rng.integers(len(found))) :]
    elif kind == 2:
        found[start:start] = found[start:stop]
    elif kind == 3:
        del found[start:stop]
    else:
        found[start : start + 4] = rng.choice([b"\xff\xff\xff\xff", bytes(4), b"\x7f\xff\xff\xff", b"\0\0\xff\xff"])
    return bytes(found)
