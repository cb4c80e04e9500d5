"""What the compiler makes of a function for a GPU, counted without one: Inductor generates code and runs nothing.

It works inside `benchmarks.training_memory.pretended_cuda`. It uses internals of PyTorch, as nothing else shows them.
"""

import types
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from unittest.mock import patch

import torch
from torch import Tensor

H100 = types.SimpleNamespace(
    name="NVIDIA H100",
    major=9,
    minor=0,
    multi_processor_count=132,
    warp_size=32,
    regs_per_multiprocessor=65536,
    max_threads_per_multi_processor=2048,
    max_threads_per_block=1024,
    total_memory=80 * 2**30,
    L2_cache_size=50 * 2**20,
    shared_memory_per_block=49152,
    shared_memory_per_block_optin=232448,
    shared_memory_per_multiprocessor=233472,
)


@dataclass(frozen=True)
class Generated:
    """Launches of one call of a compiled function."""

    kernels: int  # that the compiler generates
    products: int  # matrix products, by cuBLAS
    bytes: int  # read and written by all of them


@contextmanager
def pretended_h100() -> Iterator[None]:
    """Inductor asks for the GPU's properties, and Triton's driver for its kind."""
    import torch._dynamo.device_interface as interface
    import torch._inductor.scheduler as scheduler
    import triton
    from triton.backends.compiler import GPUTarget

    driver = types.SimpleNamespace(get_current_target=lambda: GPUTarget("cuda", 90, 32))
    with ExitStack() as stack:
        for owner in (torch.cuda, interface.CudaInterface, interface.CudaInterface.Worker):
            stack.enter_context(patch.object(owner, "get_device_properties", staticmethod(lambda device=None: H100)))
        stack.enter_context(patch.object(torch.cuda, "get_device_capability", lambda device=None: (9, 0)))
        stack.enter_context(patch.object(torch.cuda, "current_device", lambda: 0))
        stack.enter_context(patch.object(triton.runtime.driver, "_active", driver))
        stack.enter_context(patch.object(scheduler, "has_triton", lambda *_: True))
        yield


@torch.no_grad()
def count_generated(function: Callable, *inputs: Tensor) -> Generated:
    """function: what torch.compile would get; inputs: pretended CUDA tensors."""
    from torch._inductor import metrics
    from torch._inductor.compile_fx import _recursive_joint_graph_passes, view_to_reshape
    from torch._inductor.debug import DebugContext
    from torch._inductor.decomposition import select_decomp_table
    from torch._inductor.fx_passes.post_grad import post_grad_passes
    from torch._inductor.graph import GraphLowering
    from torch._inductor.virtualized import V
    from torch.fx.experimental.proxy_tensor import make_fx

    mode = torch._guards.detect_fake_mode(inputs)
    with pretended_h100(), V.set_fake_mode(mode), V.set_debug_handler(DebugContext()):
        traced = make_fx(lambda *args: function(*args), decomposition_table=select_decomp_table())(*inputs)
        _recursive_joint_graph_passes(traced)
        view_to_reshape(traced)
        post_grad_passes(traced, True)
        graph = GraphLowering(traced, example_inputs=inputs)
        with V.set_graph_handler(graph):
            before = metrics.generated_kernel_count
            graph.run(*inputs)
            code = graph.codegen()[0].value
            products = code.count("extern_kernels.")
            kernels = metrics.generated_kernel_count - before
            return Generated(kernels, products, graph.count_bytes()[0])
