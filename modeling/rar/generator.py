"""RAR (Yu et al., "Randomized Autoregressive Visual Generation", arXiv:2411.00776): a decoder-only transformer
over [start, class, code, code, ...] in any order of the codes."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from modeling.interfaces import GENERATORS, CodeLayout, GeneratorLoss, Progress
from modeling.layers.kv_cache import KeyValueCache
from modeling.layers.precision import at_least_float32
from modeling.layers.run_blocks import run_blocks
from modeling.layers.weight_decay import decays_by_name
from modeling.rar.block import Block, FinalNorm
from modeling.rar.cache import ModulatedCache
from modeling.rar.settings import RARConfig

INIT_STD = 0.02
NUM_SPECIAL = 2  # positions before the first code: start and class
# Rows of the published tables after those of the codes. Few of them are used.
SPARE_PLACES, SPARE_POSITIONS = 1024, 100


@GENERATORS.register("rar", RARConfig)
class RARGenerator(nn.Module):
    """Next-code transformer. Each position also gets the place of the code that it predicts.

    An order (T,) is a permutation of 0 .. T - 1: entry j is the raster place of the j-th code of the sequence.
    Position p of the sequence is the start (0), the class (1), or the code p - 2; from 1 on it predicts code p - 1.
    The rows of the embedding table are the codes, one unused row, the classes and "no class".
    """

    decoding = "autoregressive"
    num_special = NUM_SPECIAL
    loss_unit = "nats per code"
    # Kept in float32: guidance amplifies rounding of the logits by up to guidance_scale.
    float32_parts = ("adaln_before_head", "lm_head")
    class_tables = ("embeddings.weight",)

    def __init__(self, config: RARConfig, layout: CodeLayout):
        super().__init__()
        width, heads, length = config.hidden_size, config.num_attention_heads, layout.num_codes
        if width % heads:
            raise ValueError(f"hidden_size {width} is not a multiple of num_attention_heads {heads}")
        if config.image_seq_len not in (None, length):
            raise ValueError(f"image_seq_len is {config.image_seq_len}, the tokenizer has {length} codes")
        if config.randomness_anneal_end < config.randomness_anneal_start:
            raise ValueError(
                f"randomness_anneal_end {config.randomness_anneal_end} is before"
                f" randomness_anneal_start {config.randomness_anneal_start}"
            )
        self.config = config
        self.layout = layout
        self.num_classes = config.condition_num_classes
        self.loss_noise = 1 + length  # whether the order is random, and the order
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.embeddings = nn.Embedding(layout.codebook_size + 1 + self.num_classes + 1, width)
        self.pos_embed = nn.Parameter(torch.empty(1, length + SPARE_PLACES, width))
        self.target_aware_pos_embed = nn.Parameter(torch.empty(1, length + SPARE_PLACES, width))
        self.timesteps_embeddings = nn.Parameter(torch.empty(1, length + SPARE_POSITIONS, width))
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.num_hidden_layers))
        self.adaln_before_head = FinalNorm(width)
        self.lm_head = nn.Linear(width, layout.codebook_size)
        self._init()

    def _init(self) -> None:
        """Published as a normal truncated at -2 and 2, which is 100 deviations away: a normal."""
        for table in (self.pos_embed, self.target_aware_pos_embed, self.timesteps_embeddings):
            nn.init.normal_(table, std=INIT_STD)
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(module.weight, std=INIT_STD)
            if isinstance(module, nn.Linear):
                nn.init.zeros_(module.bias)
        for part in (*self.blocks, self.adaln_before_head):  # each block starts as the identity
            nn.init.zeros_(part.adaLN_modulation[-1].weight)

    def embed_classes(self, class_ids: Tensor) -> Tensor:
        """class_ids: (B,) in [0, num_classes], the last one is "no class" -> (B, width)."""
        return self.embeddings(class_ids + self.layout.codebook_size + 1)

    def condition(self, class_ids: Tensor, positions: slice | Tensor) -> Tensor:
        """What the adaptive norms see at n positions: class and position, (B, n, width)."""
        classes = at_least_float32(self.embed_classes(class_ids))
        return classes[:, None] + self.timesteps_embeddings[:, positions]

    def _places_in_order(self, orders: Tensor, count: int) -> Tensor:
        """Both position tables along orders (B, T), for start, class and `count` codes: (B, 2 + count, width).

        The last code and the start predict nothing, so they get no target place.
        """
        own, target = self.pos_embed[0], self.target_aware_pos_embed[0]
        places = own[orders[:, :count] + NUM_SPECIAL]
        places = torch.cat([own[:NUM_SPECIAL].expand(len(orders), -1, -1), places], dim=1)
        next_places = target[orders[:, : count + 1] + NUM_SPECIAL]
        return places + F.pad(next_places, (0, 0, 1, 1 + count - next_places.shape[1]))

    def _places(self, positions: slice | Tensor) -> Tensor:
        """Both tables at positions in raster order, where they are one table: their sum.

        A tensor has positions of codes before the last one.
        """
        if isinstance(positions, Tensor):
            return self.pos_embed[:, positions] + self.target_aware_pos_embed[:, positions + 1]
        start, end = positions.start, positions.stop
        first, last = max(start, 1), min(end, self.layout.num_codes + 1)
        next_places = self.target_aware_pos_embed[:, first + 1 : last + 1]
        return self.pos_embed[:, start:end] + F.pad(next_places, (0, 0, first - start, end - last))

    def forward(
        self, codes: Tensor, class_ids: Tensor, cache: KeyValueCache | None = None, orders: Tensor | None = None
    ) -> Tensor:
        """Logits of the next code at each position.

        codes: (B, n) with 0 <= n <= T, in the order drawn; class_ids: (B,). Start and class go before the first
        code, so the result is (B, n + 1, K) and entry t predicts code t. With a filled cache the codes continue it
        and the result is (B, n, K).
        orders: (B, T), where the codes belong; default: raster order, the only one with a cache.
        In training mode class labels are dropped with probability class_label_dropout.
        """
        start = 0 if cache is None else cache.length
        if self.training and self.config.class_label_dropout:
            dropped = torch.rand(class_ids.shape, device=class_ids.device) < self.config.class_label_dropout
            class_ids = class_ids.masked_fill(dropped, self.num_classes)
        x = self.embeddings(codes)
        if start == 0:
            x = torch.cat([self.cls_token.expand(len(codes), -1, -1), self.embed_classes(class_ids)[:, None], x], dim=1)
        positions = slice(0, x.shape[1]) if cache is None else cache.positions(x.shape[1])
        places = self._places(positions) if orders is None else self._places_in_order(orders, codes.shape[1])
        x = at_least_float32(x) + places  # residuals stay float32: half precision is for what blocks add
        if cache is None:
            condition = self.condition(class_ids, positions)
            x = run_blocks(self.blocks, x, condition, recompute=self.config.use_checkpoint and self.training)
        else:
            x = self._continue(x, class_ids, cache)
            condition = self.condition(class_ids, positions)
        if start == 0:  # the start predicts nothing
            x, condition = x[:, 1:], condition[:, 1:]
        return self.lm_head(self.adaln_before_head(x, condition))

    def _continue(self, x: Tensor, class_ids: Tensor, cache: ModulatedCache) -> Tensor:
        """The blocks at the positions after those in the cache."""
        inputs, condition = cache.position_inputs() if x.shape[1] == 1 else None, None
        if inputs is None:
            start, end = cache.length, cache.length + x.shape[1]
            inputs = (cache.start_run(end - 1),)
            condition = self.condition(class_ids, slice(start, cache.run.stop))
        for block, layer, kept in zip(self.blocks, cache.layers, *inputs, strict=True):
            x = block(x, condition, layer, kept)
        cache.advance(x.shape[1])
        return x

    # -- training: modeling.interfaces.Generator --------------------------------------------------------

    def orders(self, progress: Progress, noise: Tensor) -> tuple[Tensor, Tensor]:
        """noise: (B, 1 + T) -> the order of each image (B, T), and which of them are random (B,)."""
        raster = torch.arange(self.layout.num_codes, device=noise.device)
        random = noise[:, 0] < self.config.random_share(progress.step)
        return torch.where(random[:, None], noise[:, 1:].argsort(dim=1), raster), random

    def loss(
        self, codes: Tensor, class_ids: Tensor, progress: Progress | None = None, noise: Tensor | None = None
    ) -> GeneratorLoss:
        """Mean cross-entropy in nats per code, and top-1 accuracy.

        codes: (B, T) in raster order, class_ids: (B,). The last code of an order is a target only, never an input.
        In training, noise (B, 1 + T) draws for each image whether its order is random, and the order.
        """
        orders, log = None, {}
        if progress is not None:
            orders, random = self.orders(progress, noise)
            codes, log = codes.gather(1, orders), {"random_orders": random.float().mean()}
        logits = self(codes[:, :-1], class_ids, orders=orders).float()
        hits = (logits.detach().argmax(-1) == codes).float()
        value = F.cross_entropy(logits.flatten(0, 1), codes.flatten())
        in_place = hits if orders is None else torch.empty_like(hits).scatter_(1, orders, hits)
        return GeneratorLoss(value, hits.mean(), in_place, log)

    def decays(self, name: str, parameter: Tensor) -> bool:
        """Matrices and the start token, as published: by name, so the last adaptive norm is exempt ("adaln")."""
        return decays_by_name(name, parameter)

    def forward_flops(self) -> int:
        """Two operations per weight of a linear layer and position, and two per score and channel in each
        product of attention. Attention is causal, so half of the score matrix counts."""
        length = self.layout.num_codes + 1  # the last code is no input; the start has no logits
        blocks = sum(m.weight.numel() for m in self.blocks.modules() if isinstance(m, nn.Linear))
        weights = sum(m.weight.numel() for m in self.modules() if isinstance(m, nn.Linear))
        attention_products = len(self.blocks) * self.config.hidden_size * length * (length + 1)
        return 2 * (blocks * length + (weights - blocks) * (length - 1)) + 2 * attention_products

    # -- decoding: modeling.interfaces.AutoregressiveGenerator ------------------------------------------

    def new_cache(self, class_ids: Tensor, precision: str | None = None) -> ModulatedCache:
        head_width, weight = self.blocks[0].attn.head_width, self.embeddings.weight
        length = NUM_SPECIAL + self.layout.num_codes
        shape = (len(self.blocks), len(class_ids), self.config.num_attention_heads, length, head_width)
        return ModulatedCache(*shape, precision, dtype=weight.dtype, device=weight.device)

    def in_tokenizer_order(self, codes: Tensor) -> Tensor:
        """codes: (B, T) in raster order already."""
        return codes

    def compiled_when_decoding(self) -> list[tuple[nn.Module, str]]:
        return [(block, name) for block in self.blocks for name in ("heads", "after_attention")]

    def prepare_position(self, class_ids: Tensor, cache: ModulatedCache) -> None:
        """The modulations, if the position starts a run."""
        if cache.position_inputs() is None:
            kept = cache.start_run(cache.length)
            condition = self.condition(class_ids, cache.positions(kept.shape[2]))
            for block, modulations in zip(self.blocks, kept, strict=True):
                modulations.copy_(block.modulation(condition))
