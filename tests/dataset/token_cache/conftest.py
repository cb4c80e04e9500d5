"""Images, a tokenizer and a whole token cache for the tests of this folder."""

from pathlib import Path

import pytest
import torch

from dataset.token_cache.reader import open_token_cache
from tests.support import toy
from tests.support.launch import run
from utils.weights import export_weights

SHARD_SIZE = 6


def tokenizer_state() -> dict[str, torch.Tensor]:
    """With weights large enough for the codes to depend on the image."""
    return toy.tokenizer(init_std=1.0).state_dict()


def pretokenization(folder: Path, name: str, *flags: object, images: str = "images") -> tuple[object, ...]:
    """The command that writes the cache FOLDER/NAME."""
    return (
        *("pretokenization.py", "--img_size", toy.IMAGE_SIZE, "--batch_size", 4, "--num_workers", 1, "--ten_crop"),
        *("--data_path", folder / images, "--tokenizer_config", folder / "tokenizer.yaml"),
        *("--tokenizer_checkpoint", folder / "weights" / "model.safetensors", "--shard_size", SHARD_SIZE),
        *("--cached_path", folder / name, *flags),
    )


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Path:
    """Folder with images, a tokenizer, and the cache "whole": 15 shards by one process."""
    folder = tmp_path_factory.mktemp("pretokenization")
    toy.write_images(folder / "images", per_class=22, splits=("train",), noise=True)
    toy.write_tokenizer_config(folder / "tokenizer.yaml", 2)
    export_weights(folder / "weights", tokenizer_state())
    run(*pretokenization(folder, "whole"))
    cache = open_token_cache(folder / "whole")
    assert len({cache.views(i).tobytes() for i in range(len(cache))}) > 70  # codes tell the images apart
    return folder
