"""The generator's training step as a plain script writes it, for comparison.

Attention materialises the scores, adds a mask to them and takes the softmax in float32. Nothing is
compiled, and the optimizer is not fused. Weights and results are the same (tests/benchmarks/test_references.py).
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from modeling.alitok.generator import AliTokGenerator, Block, GeneratorConfig
from modeling.interfaces import CodeLayout
from train_generator.trainer import parameter_groups


def plain_block(self: Block, x: Tensor, rope: Tensor) -> Tensor:
    q, k, v = self.before_attention(x, rope)
    length = x.shape[1]
    mask = torch.full((length, length), float("-inf"), device=x.device).triu(1)
    scores = (q @ k.transpose(-2, -1)).float() * self.attn.head_width**-0.5 + mask
    weights = F.dropout(scores.softmax(-1), self.attn.attn_drop, self.training)
    return self.after_attention(x, weights.type_as(v) @ v)


class PlainGenerator(AliTokGenerator):
    def __init__(self, config: GeneratorConfig, layout: CodeLayout):
        super().__init__(config, layout)
        for block in self.blocks:
            block.forward = plain_block.__get__(block)


class PlainStep:
    """Forward, backward, clipping and AdamW."""

    def __init__(self, generator: PlainGenerator, autocast):
        self.generator = generator.train()
        self.autocast = autocast
        self.optimizer = torch.optim.AdamW(
            parameter_groups(generator, 0.03), lr=4e-4, betas=(0.9, 0.96), fused=False, foreach=False
        )

    def __call__(self, codes: Tensor, class_ids: Tensor) -> float:
        with self.autocast():
            loss = self.generator.loss(codes, class_ids).value
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.generator.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return float(loss.detach())
