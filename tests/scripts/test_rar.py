"""RAR's own script names: train, then sample, with AliTok's tokenizer at toy size."""

import numpy as np
import pytest

from tests.support import toy
from tests.support.commands import sample_imagenet, train_ar
from tests.support.launch import run
from tests.support.toy.rar import OVERRIDES
from training.logging import read_log
from utils.weights import export_weights


@pytest.mark.slow
def test_the_published_script_names_train_and_sample(tmp_path):
    toy.write_token_cache(tmp_path / "cache")
    config = toy.write_ar_config(tmp_path / "ar.yaml")
    _, *arguments = train_ar(config, tmp_path / "cache", tmp_path / "out", *OVERRIDES)
    run("scripts/train_rar.py", *arguments)
    assert any("random_orders" in row for row in read_log(tmp_path / "out"))
    tokenizer = export_weights(tmp_path / "tokenizer", toy.tokenizer(init_std=0.3).state_dict())[1]
    images = []
    for batch_size, processes in ((3, 1), (4, 2)):
        output = tmp_path / f"samples{processes}"
        _, *arguments = sample_imagenet(config, tmp_path / "out" / "pytorch_model.bin", tokenizer, output, *OVERRIDES)
        run("sample_imagenet_rar.py", *arguments, f"sampling.batch_size={batch_size}", processes=processes)
        with np.load(f"{output}.npz", allow_pickle=False) as arrays:
            images.append(arrays["arr_0"].astype(int))
    assert images[0].shape == (10, toy.IMAGE_SIZE, toy.IMAGE_SIZE, 3)
    assert np.abs(images[0] - images[1]).max() <= 1
