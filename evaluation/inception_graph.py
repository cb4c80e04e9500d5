"""The weights of TensorFlow's 2015 Inception graph under torch-fidelity's names."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from evaluation.graph_def import read_constants
from utils.errors import UserError

STEM = ("Conv2d_1a_3x3", "Conv2d_2a_3x3", "Conv2d_2b_3x3", "Conv2d_3b_1x1", "Conv2d_4a_3x3")  # conv, conv_1, ...
MIXED = (
    *("Mixed_5b", "Mixed_5c", "Mixed_5d", "Mixed_6a", "Mixed_6b", "Mixed_6c"),  # mixed, mixed_1, ...
    *("Mixed_6d", "Mixed_6e", "Mixed_7a", "Mixed_7b", "Mixed_7c"),
)
_A = {
    "conv": "branch1x1",
    "tower/conv": "branch5x5_1",
    "tower/conv_1": "branch5x5_2",
    "tower_1/conv": "branch3x3dbl_1",
    "tower_1/conv_1": "branch3x3dbl_2",
    "tower_1/conv_2": "branch3x3dbl_3",
    "tower_2/conv": "branch_pool",
}
_B = {
    "conv": "branch3x3",
    "tower/conv": "branch3x3dbl_1",
    "tower/conv_1": "branch3x3dbl_2",
    "tower/conv_2": "branch3x3dbl_3",
}
_C = {
    "conv": "branch1x1",
    "tower/conv": "branch7x7_1",
    "tower/conv_1": "branch7x7_2",
    "tower/conv_2": "branch7x7_3",
    "tower_1/conv": "branch7x7dbl_1",
    "tower_1/conv_1": "branch7x7dbl_2",
    "tower_1/conv_2": "branch7x7dbl_3",
    "tower_1/conv_3": "branch7x7dbl_4",
    "tower_1/conv_4": "branch7x7dbl_5",
    "tower_2/conv": "branch_pool",
}
_D = {
    "tower/conv": "branch3x3_1",
    "tower/conv_1": "branch3x3_2",
    "tower_1/conv": "branch7x7x3_1",
    "tower_1/conv_1": "branch7x7x3_2",
    "tower_1/conv_2": "branch7x7x3_3",
    "tower_1/conv_3": "branch7x7x3_4",
}
_E = {
    "conv": "branch1x1",
    "tower/conv": "branch3x3_1",
    "tower/mixed/conv": "branch3x3_2a",
    "tower/mixed/conv_1": "branch3x3_2b",
    "tower_1/conv": "branch3x3dbl_1",
    "tower_1/conv_1": "branch3x3dbl_2",
    "tower_1/mixed/conv": "branch3x3dbl_3a",
    "tower_1/mixed/conv_1": "branch3x3dbl_3b",
    "tower_2/conv": "branch_pool",
}
BRANCHES = (_A, _A, _A, _B, _C, _C, _C, _C, _D, _E, _E)  # of each of MIXED


def _numbered(name: str, i: int) -> str:
    return f"{name}_{i}" if i else name


def layer_names() -> dict[str, str]:
    """torch-fidelity's name of each convolution -> its scope in TensorFlow's graph."""
    names = {ours: _numbered("conv", i) for i, ours in enumerate(STEM)}
    for i, (ours, branches) in enumerate(zip(MIXED, BRANCHES, strict=True)):
        names |= {f"{ours}.{branch}": f"{_numbered('mixed', i)}/{scope}" for scope, branch in branches.items()}
    return names


def convert(constants: Mapping[str, np.ndarray]) -> dict[str, Tensor]:
    """TensorFlow's constants as a state dict; KeyError for a missing one.

    Convolutions are (height, width, in, out) there and (out, in, height, width) here.
    """
    state: dict[str, Tensor] = {}
    for ours, scope in layer_names().items():
        state[f"{ours}.conv.weight"] = torch.from_numpy(constants[f"{scope}/conv2d_params"]).permute(3, 2, 0, 1)
        for name, theirs in (
            ("weight", "gamma"),
            ("bias", "beta"),
            ("running_mean", "moving_mean"),
            ("running_var", "moving_variance"),
        ):
            state[f"{ours}.bn.{name}"] = torch.from_numpy(constants[f"{scope}/batchnorm/{theirs}"])
        state[f"{ours}.bn.num_batches_tracked"] = torch.tensor(0)
    state["fc.weight"] = torch.from_numpy(constants["softmax/weights"]).T
    state["fc.bias"] = torch.from_numpy(constants["softmax/biases"])
    return {key: value.clone(memory_format=torch.contiguous_format) for key, value in state.items()}


def read_inception_graph(path: str | Path) -> dict[str, Tensor]:
    """State dict from `classify_image_graph_def.pb`. Raises UserError for another file."""
    try:
        return convert(read_constants(path))
    except (KeyError, ValueError) as error:
        raise UserError(f"{path} is not TensorFlow's Inception of 2015-12-05 (no constant {error})") from error
