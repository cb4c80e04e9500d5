"""Work on a GPU that is launched with one call instead of one for each kernel."""

from collections.abc import Callable

import torch


class RecordedFunction:
    """A function without arguments and result that works in place on tensors of one GPU.

    The first call runs it, because compilation and the choice of algorithms cannot be recorded. The second call
    records it as a CUDA graph. From then on a call launches the graph.
    The function reads nothing from the host that changes, and keeps the tensors that it works on.
    """

    def __init__(self, function: Callable[[], None], device: torch.device):
        self.function = function
        self.device = device
        # The stream that `torch.cuda.graph` chooses belongs to the GPU that recorded first in this process.
        self.stream = torch.cuda.Stream(device)
        self.graph: torch.cuda.CUDAGraph | None = None
        self.warm = False

    def __call__(self) -> None:
        with torch.cuda.device(self.device):
            if not self.warm:
                self._warm_up()
                return
            if self.graph is None:
                self._record()
            self.graph.replay()

    def _warm_up(self) -> None:
        self.stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self.stream):
            self.function()
        torch.cuda.current_stream().wait_stream(self.stream)
        self.warm = True

    def _record(self) -> None:
        graph = torch.cuda.CUDAGraph()
        # thread_local: what other threads do on a GPU meanwhile, as a loader that pins memory, does no harm.
        with torch.cuda.graph(graph, stream=self.stream, capture_error_mode="thread_local"):
            self.function()
        self.graph = graph  # not before: recording may run out of memory
