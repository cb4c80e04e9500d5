"""The folder that `sampling.pipeline.Pipeline.from_pretrained` loads: how it is written, and its tokenizer found."""

import sys
from pathlib import Path

import safetensors.torch
from omegaconf import OmegaConf
from safetensors import SafetensorError

from modeling.interfaces import Generator, Tokenizer
from utils.atomic import write_atomically, write_text
from utils.errors import UserError
from utils.pretrained import CONFIG_FILE, TOKENIZER_FILE, find_pretrained_weights, tokenizer_beside
from utils.weights import EXPORTED_FILE, copy_weights
from utils.yaml_files import read_yaml, resolve_path


def save_pretrained(folder: str | Path, tokenizer: Tokenizer, generator: Generator | None = None) -> None:
    """Write config.yaml, model.safetensors and tokenizer.safetensors for `Pipeline.from_pretrained`.

    Without a generator model.safetensors is the tokenizer, for `load_pretrained_tokenizer`. Call this before making
    a pipeline of the models, which changes the generator. `hub.push` uploads such a folder.
    """
    folder = Path(folder)
    models = {"vq_model": tokenizer} if generator is None else {"vq_model": tokenizer, "generator": generator}
    config = OmegaConf.create({"model": {name: model.config for name, model in models.items()}})
    write_text(folder / CONFIG_FILE, OmegaConf.to_yaml(config))
    for name, model in zip((EXPORTED_FILE, TOKENIZER_FILE), reversed(models.values()), strict=False):
        state = {key: value.detach().cpu().contiguous() for key, value in model.state_dict().items()}
        write_atomically(folder / name, lambda f, state=state: f.write(safetensors.torch.save(state)))


def keep_tokenizer(checkpoint: str | Path, folder: Path) -> None:
    """Put a tokenizer's weights beside a generator's, so that `Pipeline.from_pretrained(folder)` works anywhere.

    checkpoint: a file, a folder or a hub id; does nothing if it does not exist. A safetensors file on the same file
    system is hard-linked.
    """
    source, target = find_pretrained_weights(tokenizer_beside(checkpoint)), folder / TOKENIZER_FILE
    if source is None or (target.exists() and target.samefile(source)):
        return
    try:
        copy_weights(source, target)
    except (OSError, RuntimeError, SafetensorError, UserError) as error:
        print(f"warning: {target} could not be written ({error}); sampling needs --tokenizer", file=sys.stderr)


def find_tokenizer(folder: Path, config: str | Path) -> Path:
    """tokenizer.safetensors beside the generator's weights, else what the configuration names. Raises UserError."""
    beside = folder / TOKENIZER_FILE
    if beside.is_file():
        return beside
    named = OmegaConf.select(read_yaml(config), "experiment.tokenizer_checkpoint")
    if not named:
        raise UserError(f"no tokenizer: neither {beside} nor experiment.tokenizer_checkpoint in {config}")
    return Path(resolve_path(named, config)).expanduser()
