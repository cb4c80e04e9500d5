"""The decoding kernel without a GPU: its arithmetic in Triton's interpreter, and compiled for GPUs."""

import json
import os
import re
import subprocess
import sys

import pytest
import torch
from torch import Tensor

from modeling.layers.head_norms import HeadNorms
from modeling.layers.kv_cache import KeyValueCache
from modeling.layers.norms import LayerNorm, RMSNorm
from tests.support.paths import ROOT

triton = pytest.importorskip("triton")

# Norm, rotation and result are rounded; the interpreter truncates to bfloat16.
ROUNDING = {"fp32": 2e-6, "bf16": 3 * 2**-7}


@pytest.fixture(scope="module")
def interpreted() -> dict:
    environment = os.environ | {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "tests.support.interpreted_kernel"]
    result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_it_computes_float32_attention(interpreted, precision):
    """Of normalised, rotated and appended heads, for every head width of the published generators, with weights of
    values and without."""
    allowed = ROUNDING[precision]
    cases = [case for case in interpreted["differences"] if case[2] == precision]
    assert len(cases) == (9 if precision == "fp32" else 4)
    for *case, found in cases:
        assert found["attended"] < allowed, case
        assert found["key"] < allowed, case
        assert found["value"] == 0, case


@pytest.mark.slow
@pytest.mark.parametrize("family", ["alitok", "rar"])
def test_a_batch_has_the_codes_of_the_ordinary_path(interpreted, family):
    assert interpreted["same codes"][family]


POINTERS = {torch.bfloat16: "*bf16", torch.float32: "*fp32", torch.int64: "*i64", torch.float8_e4m3fn: "*fp8e4nv"}


def compiled(capability: int, width: int, norm: str, cache_dtype: torch.dtype = torch.bfloat16):
    """The kernel as PyTorch would launch it in bfloat16 on a GPU of this compute capability."""
    from triton.backends.compiler import GPUTarget

    from modeling.layers.decode_kernel import NUM_WARPS, decode_kernel, kernel_arguments

    layer = KeyValueCache(1, 2, 16, 273, width, dtype=cache_dtype, device="meta").layers[0]
    qkv = torch.empty(2, 1, 3 * 16 * width, dtype=torch.bfloat16, device="meta")
    q, k, v = qkv.unflatten(-1, (3, -1, width)).permute(2, 0, 3, 1, 4)
    make, rope = (RMSNorm, torch.empty(1, 2, width)) if norm == "rms" else (lambda d: LayerNorm(d, 1e-6), None)
    norms = HeadNorms(make(width).bfloat16(), make(width).bfloat16(), rope)
    position = torch.zeros(1, dtype=torch.int64)
    signature, constants, attributes = {}, {}, {}
    for place, (name, value) in enumerate(kernel_arguments(q, k, v, norms, layer, position, qkv.new_empty(1)).items()):
        assert name == decode_kernel.arg_names[place]
        if value is None or name.isupper():
            signature[name], constants[name] = "constexpr", value
        elif isinstance(value, Tensor):
            signature[name] = POINTERS[value.dtype]
        else:
            signature[name] = "i32" if isinstance(value, int) else "fp32"
        if isinstance(value, Tensor) or (signature[name] == "i32" and value % 16 == 0):
            attributes[(place,)] = [["tt.divisibility", 16]]
    source = triton.compiler.ASTSource(decode_kernel, signature, constants, attributes)
    target = GPUTarget("cuda", capability, 32)
    return triton.compile(source, target=target, options={"num_warps": NUM_WARPS})


def resources(kernel, folder) -> dict[str, int]:
    """Registers of a thread (REG), spilled bytes (STACK) and more, as NVIDIA's tool reads them from the binary."""
    binary = folder / "kernel.cubin"
    binary.write_bytes(kernel.asm["cubin"])
    tool = triton.knobs.nvidia.cuobjdump.path
    output = subprocess.run([tool, "-res-usage", binary], capture_output=True, text=True, check=True).stdout
    return {name: int(number) for name, number in re.findall(r"(REG|STACK|SHARED|LOCAL):(\d+)", output)}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("capability", "width", "norm"),
    [(80, 48, "rms"), (90, 48, "rms"), (90, 64, "layer"), (90, 80, "rms"), (80, 88, "layer")],
)
def test_it_is_compiled_for_gpus(tmp_path, capability, width, norm):
    """Everything stays in registers, and enough of them are left for other blocks; the cache is read 16 bytes at a
    time."""
    kernel = compiled(capability, width, norm)
    found = resources(kernel, tmp_path)
    assert found["STACK"] == 0
    assert found["LOCAL"] == 0
    assert found["REG"] <= 128
    assert found["SHARED"] <= 2048
    assert kernel.asm["ptx"].count("ld.global.v4.b32") >= 8


@pytest.mark.slow
def test_it_is_compiled_for_a_cache_of_8_bits(tmp_path):
    found = resources(compiled(90, 48, "rms", torch.float8_e4m3fn), tmp_path)
    assert found["STACK"] == 0
    assert found["REG"] <= 168
