"""Streams of image arrays."""

import numpy as np

from utils.npz import NpzImages


def test_compressed_npz_streams(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (7, 4, 6, 3), dtype=np.uint8)
    np.savez_compressed(tmp_path / "x.npz", arr_0=images)
    assert (np.concatenate(list(NpzImages(tmp_path / "x.npz").batches(2))) == images).all()
