"""What the project needs from a tokenizer and from a generator, and the registries of both.

A family of models is a folder of `modeling/`. It registers a settings dataclass and a class for each of
its models; token cache, trainings, sampling and evaluation use the interfaces below and know no family.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

from torch import Tensor, nn

from utils.registry import Registry

TOKENIZERS = Registry(
    "tokenizer",
    {
        "alitok": "modeling.alitok.tokenizer",
        "maskgit_vq": "modeling.maskgit_vq.tokenizer",
        "titok": "modeling.titok.tokenizer",
    },
    default="alitok",
    unnamed={"vit_enc_model_size": "titok"},
)
GENERATORS = Registry(
    "generator",
    {
        "alitok": "modeling.alitok.generator",
        "maskgit": "modeling.maskgit.generator",
        "rar": "modeling.rar.generator",
    },
    default="alitok",
    unnamed={"model_type": "maskgit"},
)


@dataclass(frozen=True)
class CodeLayout:
    """The codes of one image, as the tokenizer's settings tell them: `num_prefix` codes without a place
    in the image, then those of the grid in raster order. Without a grid all codes form one line."""

    codebook_size: int  # codes are integers in [0, codebook_size)
    num_codes: int  # T
    num_prefix: int = 0
    grid: tuple[int, int] | None = None  # rows, columns

    def __post_init__(self):
        if self.grid is not None and self.num_prefix + self.grid[0] * self.grid[1] != self.num_codes:
            raise ValueError(f"{self.num_codes} codes are not {self.num_prefix} and a grid of {self.grid}")


class TokenizerSettings(Protocol):
    """`model.vq_model`: a dataclass with a `name` and, derived from its sizes,"""

    image_size: int  # side of the square images in pixels
    layout: CodeLayout | None  # None: continuous latents, no codes


class Tokenizer(Protocol):
    """Images <-> codes; a `torch.nn.Module` made from its settings."""

    config: TokenizerSettings
    image_size: int
    layout: CodeLayout | None
    """None: `encode` returns continuous latents, which `decode` takes; it has no token cache and no generator."""
    optional_keys: tuple[str, ...]
    """Names of tensors that only training needs: exports leave them out, and files may lack them."""
    variants: dict[str, str]
    """Start of a weight's name -> the variant of the family that has such weights, for the error about a file of
    another variant. The first one that a file has counts."""
    trainable: bool  # whether it is a `TrainableTokenizer`; else it is used with the weights it has
    trunks: Iterable[nn.Module]
    """Parts that are compiled one by one; with a flag `activation_checkpointing` if the tokenizer is trainable."""

    def encode(self, images: Tensor) -> Tensor:
        """images: (B, 3, H, W) in [0, 1] -> codes (B, T) int64."""

    def decode(self, codes: Tensor) -> Tensor:
        """codes: (B, T) int64 -> images (B, 3, H, W) in [0, 1]."""


class LossTerm(NamedTuple):
    value: Tensor  # scalar, before its weight
    weight: float | Tensor


class PerceptualPicture(NamedTuple):
    """Another reconstruction of the images, for the phase's perceptual losses only."""

    picture: Tensor  # (B, 3, H, W) in [0, 1]
    weight: float  # times the phase's weight of each loss


@dataclass
class TokenizerOutput:
    """What one training pass through a tokenizer gives."""

    losses: dict[str, LossTerm]  # the tokenizer's own losses by name
    reconstruction: Tensor | None = None  # (B, 3, H, W), for perceptual and adversarial losses; None without pixels
    perceptual_pictures: dict[str, PerceptualPicture] = field(default_factory=dict)  # by name


class TrainableTokenizer(Tokenizer, Protocol):
    """A tokenizer that `train_tokenizer/` can train."""

    code_keys: tuple[str, ...]
    """Prefixes of the names of the weights that decide the codes; `training.freeze_encoder` freezes them."""

    def __call__(self, images: Tensor) -> TokenizerOutput:
        """images: (B, 3, H, W) in [0, 1]."""

    def load_earlier_stage(self, state: dict[str, Tensor], source: Any) -> None:
        """Take over the weights that this stage starts from. Raises UserError that names `source`."""

    def decays(self, name: str, parameter: Tensor) -> bool:
        """Whether weight decay applies to a parameter of the tokenizer or of the discriminator."""

    def begin_step(self, phase: Any) -> None:
        """Called before the first micro-batch of a step. phase: the running `train_tokenizer.phases.Phase`."""

    def before_update(self) -> None:
        """Called after the backward passes of a step with finite gradients, just before the optimizer's update."""

    def log_values(self) -> dict[str, Tensor]:
        """More scalars for the log."""

    def replicated_state(self) -> Tensor | None:
        """A tensor that every rank updates by itself and that must stay equal on all of them."""


class Progress(NamedTuple):
    """How far a training is."""

    step: int  # optimizer steps done
    total_steps: int


class GeneratorLoss(NamedTuple):
    value: Tensor  # scalar, in the generator's `loss_unit`
    accuracy: Tensor  # scalar: top-1 accuracy over the predicted codes
    hits: Tensor  # (B, T) in the tokenizer's order: 1 where the first guess is right, 0 where not, NaN where no guess
    log: dict[str, Tensor] = {}  # more scalars for the log


class Generator(Protocol):
    """Classes -> codes; a `torch.nn.Module` made from its settings and a tokenizer's `CodeLayout`.

    Codes enter `loss` and leave decoding in the tokenizer's order, whatever order the generator uses.
    """

    config: Any
    layout: CodeLayout
    num_classes: int  # the class id `num_classes` means "no class"
    decoding: str  # how codes are drawn: a name of `sampling.decoding.DECODERS`
    loss_unit: str  # for example "nats per code"
    loss_noise: int  # uniform numbers per image that `loss` takes
    blocks: Iterable[nn.Module]  # compiled and sharded one by one
    float32_parts: tuple[str, ...]  # names of submodules that stay float32 when the others are cast
    class_tables: tuple[str, ...]  # names of weights with `num_classes` rows of classes, then "no class", as last rows

    def loss(self, codes: Tensor, class_ids: Tensor, progress: Progress | None, noise: Tensor) -> GeneratorLoss:
        """codes: (B, T), class_ids: (B,); noise: (B, loss_noise) in [0, 1), a function of seed and sample.

        progress: None in validation, which must be comparable over the whole training.
        """

    def decays(self, name: str, parameter: Tensor) -> bool:
        """Whether weight decay applies to a parameter."""

    def forward_flops(self) -> int:
        """Operations in the matrix products of one image's forward pass in training."""


class AutoregressiveGenerator(Generator, Protocol):
    """A generator with `decoding = "autoregressive"`: it draws one code at a time.

    A cache is a `modeling.layers.kv_cache.KeyValueCache` or behaves like one.
    """

    num_special: int  # positions of a cache before that of the first code

    def __call__(self, codes: Tensor, class_ids: Tensor, cache: Any = None) -> Tensor:
        """Logits of the next codes, (B, n, K) with n >= 1; the last entry predicts the code after the last of `codes`.

        codes: (B, n) in the order drawn. Without a cache, or with an empty one, they start with the first
        code (n may be 0); else they continue what the cache holds, and the cache grows by them.
        """

    def new_cache(self, class_ids: Tensor, precision: str | None = None) -> Any:
        """An empty cache for rows of class_ids (B,). precision: see `modeling.layers.kv_cache.DTYPES`."""

    def prepare_position(self, class_ids: Tensor, cache: Any) -> None:
        """Make what `cache.position_inputs` returns for the next position, unless it is there: a recorded position
        makes nothing that others need too."""

    def in_tokenizer_order(self, codes: Tensor) -> Tensor:
        """codes (B, T) in the order drawn -> in the tokenizer's order."""

    def compiled_when_decoding(self) -> Iterable[tuple[nn.Module, str]]:
        """Methods, as (module, name), that have one shape at every position but the first, and are worth compiling."""


class MaskedGenerator(Generator, Protocol):
    """A generator with `decoding = "masked"`: it draws codes at any positions, and may draw them again."""

    def __call__(self, codes: Tensor, class_ids: Tensor, places: Tensor | None = None) -> Tensor:
        """Logits of the codes at `places` (B, n) in [0, T), by default at all T: (B, n, K).

        codes: (B, T), -1 where masked; class_ids: (B,).
        """
