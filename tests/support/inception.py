"""Random weights of ADM's Inception, as torch-fidelity and as TensorFlow name them."""

import torch

from benchmarks.evaluation import untrained_inception
from evaluation.convert_inception import BATCH_NORM, layer_scopes


def random_state() -> dict[str, torch.Tensor]:
    """Random weights under torch-fidelity's names."""
    with torch.device("meta"):  # only the shapes
        network = untrained_inception()
    generator, state = torch.Generator().manual_seed(0), {}
    for key, value in network.state_dict().items():
        noise = torch.randn(value.shape, generator=generator)
        if key.endswith("num_batches_tracked"):
            state[key] = torch.tensor(0)
        elif "bn" in key:
            state[key] = (1 if key.endswith(("weight", "var")) else 0) + 0.1 * noise.abs()
        else:
            state[key] = noise * (2 / value[0].numel()) ** 0.5
    return state


def tensorflow_graph(state: dict[str, torch.Tensor]) -> bytes:
    """The same weights as TensorFlow's GraphDef, with nodes of other types among them."""
    from tensorboard.compat.proto.graph_pb2 import GraphDef
    from tensorboard.compat.proto.types_pb2 import DT_FLOAT, DT_INT32

    graph = GraphDef()
    graph.node.add(name="input", op="Placeholder")
    integer = graph.node.add(name="axis", op="Const").attr["value"].tensor
    integer.dtype = DT_INT32
    integer.int_val.append(3)

    def constant(name: str, value: torch.Tensor, as_content: bool = True) -> None:
        tensor = graph.node.add(name=name, op="Const").attr["value"].tensor
        tensor.dtype = DT_FLOAT
        for size in value.shape:
            tensor.tensor_shape.dim.add(size=size)
        array = value.contiguous().numpy().astype("<f4")
        if as_content:
            tensor.tensor_content = array.tobytes()
        else:
            tensor.float_val.extend(array.ravel().tolist())

    for ours, scope in layer_scopes().items():
        constant(f"{scope}/conv2d_params", state[f"{ours}.conv.weight"].permute(2, 3, 1, 0))
        for name, theirs in BATCH_NORM.items():
            constant(f"{scope}/batchnorm/{theirs}", state[f"{ours}.bn.{name}"])
    constant("softmax/weights", state["fc.weight"].T)
    constant("softmax/biases", state["fc.bias"], as_content=False)
    return graph.SerializeToString()
