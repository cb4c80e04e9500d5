"""Kernels and bytes of a compiled training block on a GPU, counted without a GPU.

python -m benchmarks.training_kernels --config configs/alitok_b.yaml --batch_size 128

The block's forward and backward are traced on fake tensors of the CPU, because autograd would ask a real GPU. Both
graphs are traced again on fake tensors of a GPU, and Inductor generates their code for it. Nothing runs.
Traffic is the bytes that generated kernels read and write, each buffer once a kernel; matrix products and attention are
library kernels and not part of it.
"""

import argparse
from collections.abc import Callable
from typing import Any, NamedTuple
from unittest.mock import patch

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._functorch.aot_autograd import aot_function
from torch._functorch.partitioners import min_cut_rematerialization_partition
from torch._inductor.compile_fx import view_to_reshape
from torch._inductor.debug import DebugContext
from torch._inductor.decomposition import select_decomp_table
from torch._inductor.fx_passes.joint_graph import joint_graph_passes
from torch._inductor.fx_passes.post_grad import post_grad_passes
from torch._inductor.graph import GraphLowering
from torch._inductor.virtualized import V
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx import GraphModule
from torch.fx.experimental.proxy_tensor import make_fx

from benchmarks.generated_kernels import pretended_h100
from benchmarks.training_memory import flash_attention
from modeling.build import build_generator, code_layout
from modeling.layers import attention
from train_generator.config import ARConfig
from utils.config import load_config


class Count(NamedTuple):
    kernels: int  # generated
    traffic: int  # bytes that they read and write


def trace_training(block: Callable, inputs: tuple[Tensor, ...], mode: FakeTensorMode) -> list[GraphModule]:
    """Forward and backward graph of a block in training, as torch.compile splits them; in bf16 autocast."""
    graphs: list[GraphModule] = []

    def keep(graph: GraphModule, _inputs: Any) -> GraphModule:
        graphs.append(graph)
        return graph

    def partition(graph: GraphModule, joint_inputs: Any, **options: Any) -> tuple[GraphModule, GraphModule]:
        with V.set_fake_mode(mode):
            joint_graph_passes(graph)
        return min_cut_rematerialization_partition(graph, joint_inputs, compiler="inductor", **options)

    traced = aot_function(block, keep, keep, partition, select_decomp_table())
    with patch.object(F, "scaled_dot_product_attention", flash_attention), torch.autocast("cpu", torch.bfloat16):
        result = traced(*inputs)
    if len(graphs) == 1:  # the backward graph is compiled when it is needed
        result.sum().backward()
    return graphs


def on_gpu(graph: GraphModule, mode: FakeTensorMode) -> tuple[GraphModule, list[Tensor]]:
    """The same graph and its inputs, for a GPU."""
    device = torch.device("cuda:0")
    inputs = []
    for node in graph.graph.nodes:
        if node.op == "placeholder":
            value = node.meta["val"]
            with mode:
                inputs.append(torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device=device))
        node.args = tuple(device if isinstance(argument, torch.device) else argument for argument in node.args)
        node.kwargs = {key: device if isinstance(value, torch.device) else value for key, value in node.kwargs.items()}
    graph.recompile()
    with mode:
        return make_fx(graph)(*inputs), inputs


def count_graph(graph: GraphModule, mode: FakeTensorMode, is_backward: bool) -> Count:
    """Generate the code of one graph, and count."""
    graph, inputs = on_gpu(graph, mode)
    view_to_reshape(graph)
    with V.set_fake_mode(mode), V.set_debug_handler(DebugContext()):
        post_grad_passes(graph, is_inference=False)
        lowering = GraphLowering(graph, example_inputs=inputs, is_backward=is_backward)
        with V.set_graph_handler(lowering):
            lowering.run(*inputs)
            code = lowering.codegen()[0].value
            generated = [node for node in lowering.scheduler.nodes if not node.is_extern()]
            traffic = sum(node.get_read_write_buffers_sizes() for node in generated)
    return Count(code.count(".run("), traffic)


def count_block(block: nn.Module, length: int, batch_size: int, *more: Tensor) -> tuple[Count, Count]:
    """Forward and backward of a block in training mode that takes (B, length, width) and `more`; `block` must have
    been made inside the FakeTensorMode of `more`."""
    names, weights = zip(*block.named_parameters(), strict=True)
    mode = weights[0].fake_mode
    with mode:
        x = torch.empty(batch_size, length, weights[0].shape[0], requires_grad=True)

        def run(x: Tensor, *values: Tensor) -> Tensor:
            given = dict(zip(names, values, strict=False))
            return torch.func.functional_call(block, given, (x, *values[len(names) :]))

        with patch.object(attention, "materialised_attention", flash_attention_of_cpu):
            forward, backward = trace_training(run, (x, *weights, *more), mode)
    with pretended_h100():
        return count_graph(forward, mode, False), count_graph(backward, mode, True)


def flash_attention_of_cpu(q: Tensor, k: Tensor, v: Tensor, *, causal: bool, dropout: float = 0.0) -> Tensor:
    """In place of the materialised scores of training on a CPU."""
    return flash_attention(q, k, v, dropout_p=dropout, is_causal=causal)


def count_generator_block(config: ARConfig, batch_size: int) -> tuple[Count, Count]:
    """Forward and backward of one block of an AliTok generator."""
    with FakeTensorMode(allow_non_fake_inputs=True):
        generator = build_generator(config.model.generator, code_layout(config.model.vq_model)).train()
        length = generator.layout.num_codes
        rope = torch.empty_like(generator.rope[:length])
    return count_block(generator.blocks[0], length, batch_size, rope)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", default="configs/alitok_b.yaml")
    parser.add_argument("--batch_size", type=int, default=128)
    args = parser.parse_args()
    config = load_config(ARConfig, "", [f"config={args.config}", "experiment.output_dir=unused"])
    for name, count in zip(("forward", "backward"), count_generator_block(config, args.batch_size), strict=True):
        print(f"{name}: {count.kernels} generated kernels, {count.traffic / 1e9:.2f} GB")


if __name__ == "__main__":
    main()
