"""What `compile` means on a machine with and without a working compiler."""

import pytest
import torch

from tests.support.launch import run
from utils.compiling import compile_or_eager

WITHOUT_COMPILER = """
from utils.compiling import compile_or_eager
print([compile_or_eager(True, "cpu"), compile_or_eager(True, "cpu"), compile_or_eager(None, "cpu")])
"""


def test_a_cpu_does_not_compile_unless_asked():
    assert not compile_or_eager(None, "cpu")
    assert not compile_or_eager(False, "cuda")


@pytest.mark.slow
def test_without_a_compiler_functions_stay_eager():
    result = run("-c", WITHOUT_COMPILER, fresh=True, environment={"CXX": "/nonexistent/g++"})
    assert "[False, False, False]" in result.stdout
    assert result.stderr.count("warning: nothing is compiled, which is slower") == 1
    assert "No working C++ compiler found" in result.stderr


@pytest.mark.slow
def test_with_a_compiler_many_shapes_are_compiled(monkeypatch):
    monkeypatch.setattr(torch._dynamo.config, "recompile_limit", 8)
    monkeypatch.setattr(torch._dynamo.config, "optimize_ddp", True)
    assert compile_or_eager(True, "cpu")
    assert not torch._dynamo.config.optimize_ddp
    torch._dynamo.reset()
    graphs = []

    def backend(graph, _inputs):
        graphs.append(graph)
        return graph

    compiled = torch.compile(lambda x: x + 1, backend=backend, dynamic=False)
    for rows in range(2, 14):
        compiled(torch.zeros(rows))
    assert len(graphs) == 12
