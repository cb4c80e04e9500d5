"""Convert TensorFlow's `classify_image_graph_def.pb` (Inception-v3 of 2015-12-05) to torch-fidelity's weights.

python -m evaluation.convert_inception classify_image_graph_def.pb inception.pth
"""

import argparse
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from utils.arguments import file_path
from utils.atomic import write_atomically
from utils.errors import UserError, entry_point
from utils.output_file import ZIP, output_file

# TensorFlow's scopes are conv, conv_1, ... and mixed, mixed_1, ..., in this order.
STEM = "Conv2d_1a_3x3 Conv2d_2a_3x3 Conv2d_2b_3x3 Conv2d_3b_1x1 Conv2d_4a_3x3"
MIXED = "Mixed_5b Mixed_5c Mixed_5d Mixed_6a Mixed_6b Mixed_6c Mixed_6d Mixed_6e Mixed_7a Mixed_7b Mixed_7c"
# TensorFlow's scope = torch-fidelity's branch, within each kind of mixed block.
BRANCHES = {
    "A": "conv=branch1x1 tower/conv=branch5x5_1 tower/conv_1=branch5x5_2 tower_1/conv=branch3x3dbl_1"
    " tower_1/conv_1=branch3x3dbl_2 tower_1/conv_2=branch3x3dbl_3 tower_2/conv=branch_pool",
    "B": "conv=branch3x3 tower/conv=branch3x3dbl_1 tower/conv_1=branch3x3dbl_2 tower/conv_2=branch3x3dbl_3",
    "C": "conv=branch1x1 tower/conv=branch7x7_1 tower/conv_1=branch7x7_2 tower/conv_2=branch7x7_3"
    " tower_1/conv=branch7x7dbl_1 tower_1/conv_1=branch7x7dbl_2 tower_1/conv_2=branch7x7dbl_3"
    " tower_1/conv_3=branch7x7dbl_4 tower_1/conv_4=branch7x7dbl_5 tower_2/conv=branch_pool",
    "D": "tower/conv=branch3x3_1 tower/conv_1=branch3x3_2 tower_1/conv=branch7x7x3_1 tower_1/conv_1=branch7x7x3_2"
    " tower_1/conv_2=branch7x7x3_3 tower_1/conv_3=branch7x7x3_4",
    "E": "conv=branch1x1 tower/conv=branch3x3_1 tower/mixed/conv=branch3x3_2a tower/mixed/conv_1=branch3x3_2b"
    " tower_1/conv=branch3x3dbl_1 tower_1/conv_1=branch3x3dbl_2 tower_1/mixed/conv=branch3x3dbl_3a"
    " tower_1/mixed/conv_1=branch3x3dbl_3b tower_2/conv=branch_pool",
}
KINDS_OF_MIXED = "AAABCCCCDEE"
BATCH_NORM = {"weight": "gamma", "bias": "beta", "running_mean": "moving_mean", "running_var": "moving_variance"}


def layer_scopes() -> dict[str, str]:
    """torch-fidelity's name of each convolution -> its scope in TensorFlow's graph."""
    scopes = {name: f"conv_{i}" if i else "conv" for i, name in enumerate(STEM.split())}
    for i, (name, kind) in enumerate(zip(MIXED.split(), KINDS_OF_MIXED, strict=True)):
        for scope, branch in (pair.split("=") for pair in BRANCHES[kind].split()):
            scopes[f"{name}.{branch}"] = f"mixed_{i}/{scope}" if i else f"mixed/{scope}"
    return scopes


def convert(constants: Mapping[str, np.ndarray]) -> dict[str, Tensor]:
    """TensorFlow's constants by name -> torch-fidelity's state dict. Raises KeyError for a missing constant."""
    state: dict[str, Tensor] = {}
    for name, scope in layer_scopes().items():
        # (height, width, in, out) -> (out, in, height, width)
        state[f"{name}.conv.weight"] = torch.from_numpy(constants[f"{scope}/conv2d_params"]).permute(3, 2, 0, 1)
        for ours, theirs in BATCH_NORM.items():
            state[f"{name}.bn.{ours}"] = torch.from_numpy(constants[f"{scope}/batchnorm/{theirs}"])
        state[f"{name}.bn.num_batches_tracked"] = torch.tensor(0)
    state["fc.weight"] = torch.from_numpy(constants["softmax/weights"]).T
    state["fc.bias"] = torch.from_numpy(constants["softmax/biases"])
    return {key: value.contiguous() for key, value in state.items()}


def read_inception_graph(path: str | Path) -> dict[str, Tensor]:
    """torch-fidelity's state dict from TensorFlow's file, without TensorFlow. Raises UserError for another file."""
    from google.protobuf.message import DecodeError
    from tensorboard.compat.proto.graph_pb2 import GraphDef
    from tensorboard.compat.proto.types_pb2 import DT_FLOAT
    from tensorboard.util.tensor_util import make_ndarray

    try:
        nodes = GraphDef.FromString(Path(path).read_bytes()).node
        tensors = {node.name: node.attr["value"].tensor for node in nodes if node.op == "Const"}
        return convert({name: make_ndarray(tensor) for name, tensor in tensors.items() if tensor.dtype == DT_FLOAT})
    except (DecodeError, ValueError) as error:
        raise UserError(f"{path} is damaged or not a TensorFlow GraphDef ({error})") from error
    except KeyError as error:
        raise UserError(f"{path} is not TensorFlow's Inception of 2015-12-05 (no constant {error})") from error


@entry_point
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("graph", metavar="FILE.pb", type=file_path, help="classify_image_graph_def.pb")
    parser.add_argument("output", metavar="FILE.pth", type=file_path, help="weights to write, for --inception")
    args = parser.parse_args()
    with output_file(args.output, "FILE.pth", ZIP):
        state = read_inception_graph(args.graph)
        write_atomically(args.output, lambda file: torch.save(state, file))


if __name__ == "__main__":
    main()
