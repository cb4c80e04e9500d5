"""Start a training from the weights of an earlier one."""

from pathlib import Path

import torch

from modeling.interfaces import Generator, TrainableTokenizer
from utils.errors import UserError
from utils.pretrained import pretrained_weights
from utils.weights import load_strict, read_state_dict
from utils.wrapped_weights import without_prefixes


def start_tokenizer(tokenizer: TrainableTokenizer, source: str | Path, decoder: bool = False) -> None:
    """Copy what a tokenizer's stage takes over from `source`: a file, a folder or a hub id.

    decoder: take all weights instead, to train a finished tokenizer further. Raises UserError.
    """
    state = read_state_dict(pretrained_weights(source))
    if decoder:
        load_strict(tokenizer, state, source, optional=tokenizer.optional_keys, variants=tokenizer.variants)
    else:
        tokenizer.load_earlier_stage(state, source)


def start_generator(generator: Generator, source: str | Path, new_classes: bool = False) -> None:
    """Copy the weights of `source` (a file, a folder or a hub id) into a generator, to train it further.

    new_classes: each class starts as the "no class" of the file, and everything else as it is in the file. So the
    numbers of classes may differ. Raises UserError.
    """
    own = generator.state_dict()
    state = without_prefixes(read_state_dict(pretrained_weights(source)), own, source)
    others = own.keys() - {*generator.class_tables}
    if state.keys() == own.keys() and all(state[key].shape == own[key].shape for key in others):
        for key in generator.class_tables:
            rows, no_class = len(own[key]) - generator.num_classes - 1, state[key][-1:]
            there = len(state[key]) - rows - 1
            if new_classes and there > 0:
                state[key] = torch.cat([state[key][:rows], no_class.expand(generator.num_classes + 1, -1)])
            elif there > 0 and there != generator.num_classes:
                raise UserError(
                    f"{source} has {there} classes, model.generator {generator.num_classes}: set"
                    " experiment.new_classes=true to train other classes"
                )
    load_strict(generator, state, source)


def freeze_codes(tokenizer: TrainableTokenizer) -> None:
    """Everything that decides the codes stops learning."""
    for name, parameter in tokenizer.named_parameters():
        if name.startswith(tokenizer.code_keys):
            parameter.requires_grad_(False)
