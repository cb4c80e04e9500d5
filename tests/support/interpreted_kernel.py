"""Run the decoding kernel on a CPU with Triton's interpreter, and print what it computes as JSON.

TRITON_INTERPRET=1 python -m tests.support.interpreted_kernel: the variable must be set before Triton is imported.
"""

import json

import torch
import torch.nn.functional as F
from torch import Tensor

from modeling.layers.decode_kernel import BLOCK, fused_decode_attention
from modeling.layers.head_norms import HeadNorms
from modeling.layers.kv_cache import KeyValueCache
from modeling.layers.norms import LayerNorm, RMSNorm
from sampling.autoregressive import AutoregressiveDecoder, _SteppedBatch
from sampling.noise import image_noise
from sampling.settings import SamplingSettings
from tests.support import toy
from tests.support.decoding import draw_codes
from tests.support.toy.rar import rar_generator

ROWS, HEADS, LENGTH = 2, 2, BLOCK + 40
POSITIONS = (1, BLOCK + 25)  # less than a block, a block and a part
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def head_norms(kind: str, width: int, dtype: torch.dtype) -> HeadNorms | None:
    if kind == "none":
        return None
    make = {"rms": lambda: RMSNorm(width), "layer": lambda: LayerNorm(width, 1e-6)}[kind]
    norms = HeadNorms(make().to(dtype), make().to(dtype), torch.randn(1, 2, width) if kind == "rms" else None)
    for parameter in (*norms.q_norm.parameters(), *norms.k_norm.parameters()):
        torch.nn.init.normal_(parameter, 1, 0.3)
    return norms


def expected(q: Tensor, k: Tensor, v: Tensor, weights: Tensor | None) -> Tensor:
    """float32 attention of the last position over all of them, (B, heads, n, width)."""
    q, k, v = q.float(), k.float(), v.float()
    if weights is None:
        return F.scaled_dot_product_attention(q, k, v)
    factors = F.pad(weights, (0, 1), value=1.0)[:, None, None]
    return ((q @ k.mT * q.shape[-1] ** -0.5).softmax(-1) * factors) @ v


def differences(width: int, kind: str, precision: str, weighted: bool) -> dict:
    """Largest differences from float32 arithmetic on the same numbers, relative to 1 + the number."""
    torch.manual_seed(0)
    dtype, result = DTYPES[precision], {"attended": 0.0, "key": 0.0, "value": 0.0}
    norms = head_norms(kind, width, dtype)
    for position in POSITIONS:
        cache = KeyValueCache(1, ROWS, HEADS, LENGTH, width, dtype=dtype)
        cache.keys.normal_()
        cache.values.normal_()
        cache.keys[..., position:, :] = cache.values[..., position:, :] = torch.nan  # must not be read
        cache.value_weights = torch.rand(ROWS, LENGTH) if weighted else None
        past_k, past_v = (t[0, :, :, :position].clone() for t in (cache.keys, cache.values))
        q, k, v = torch.randn(ROWS, 1, 3 * HEADS * width).to(dtype).unflatten(-1, (3, -1, width)).permute(2, 0, 3, 1, 4)
        found = fused_decode_attention(q, k, v, norms, cache.layers[0], torch.tensor([position]))
        q, k = norms(q, k) if norms else (q, k)
        weights = cache.value_weights[:, :position] if weighted else None
        wanted = expected(q, torch.cat([past_k, k], 2), torch.cat([past_v, v], 2), weights)
        stored_k, stored_v = (t[0, :, :, position : position + 1] for t in (cache.keys, cache.values))
        for name, one, two in (("attended", found, wanted), ("key", stored_k, k), ("value", stored_v, v)):
            error = (one.float() - two.float()).abs() / (1 + two.float().abs())
            result[name] = max(result[name], error.max().item())
    return result


def drawn_codes(build) -> bool:
    """Whether a batch decoded with the kernel has the codes that the ordinary path draws."""
    settings, classes, noise = SamplingSettings(0.0), torch.tensor([0, 2]), image_noise(0, range(2), toy.NUM_CODES)
    decoder = AutoregressiveDecoder(build(), settings)
    batch = _SteppedBatch(decoder, 2, torch.device("cpu"), fused_decode_attention)
    *_, codes = batch.run(classes, noise, batch.step)
    return torch.equal(codes, draw_codes(build(), classes, noise, settings))


@torch.no_grad()
def main() -> None:
    cases = [(width, norm, "fp32", width > 64) for width in (48, 64, 80, 88) for norm in ("rms", "layer")]
    cases += [
        (48, "none", "fp32", True),
        *((w, n, "bf16", False) for w, n in ((48, "rms"), (64, "layer"), (80, "rms"))),
    ]
    cases += [(88, "layer", "bf16", True)]
    print(
        json.dumps(
            {
                "differences": [[*case, differences(*case)] for case in cases],
                "same codes": {"alitok": drawn_codes(toy.generator), "rar": drawn_codes(rar_generator)},
            }
        )
    )


if __name__ == "__main__":
    main()
