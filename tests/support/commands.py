"""Command lines of the scripts, for `launch.run` and `launch.start`."""

from pathlib import Path

from tests.support import toy


def train_tokenizer(config: Path, images: Path, output: Path, *overrides: str) -> list[object]:
    return [
        "train_tokenizer/train_tokenizer.py",
        f"config={config}",
        f"dataset.params.data_path={images}",
        f"experiment.output_dir={output}",
        *overrides,
    ]


def train_ar(config: Path, cache: Path, output: Path, *overrides: str) -> list[object]:
    """Without previews, unless an override names a tokenizer."""
    return [
        "train_ar.py",
        f"config={config}",
        f"dataset.params.pretokenization={cache}",
        f"experiment.output_dir={output}",
        "experiment.tokenizer_checkpoint=none",
        *overrides,
    ]


def pretokenize(images: Path, config: Path, tokenizer: Path, cache: Path, *options: object) -> list[object]:
    """config: of the tokenizer; tokenizer: its weights; cache: the folder to write."""
    command = ["pretokenization.py", "--img_size", toy.IMAGE_SIZE, "--num_workers", 0, "--data_path", images]
    command += ["--tokenizer_config", config, "--tokenizer_checkpoint", tokenizer, "--cached_path", cache]
    return [*command, *options]


def sample_imagenet(config: Path, generator: Path, tokenizer: Path, output: Path, *overrides: str) -> list[object]:
    """generator, tokenizer: weights; output: the .npz without its suffix."""
    return [
        "sample_imagenet.py",
        f"config={config}",
        f"experiment.generator_checkpoint={generator}",
        f"experiment.tokenizer_checkpoint={tokenizer}",
        f"experiment.output_dir={output}",
        *overrides,
    ]
