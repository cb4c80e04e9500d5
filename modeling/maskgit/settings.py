"""Settings of the masked generators. The defaults are those of TiTok-B-64's generator."""

from dataclasses import dataclass

from utils.config import option


@dataclass
class MaskGITConfig:
    name: str = option("maskgit", "registered generator")
    model_type: str = option("ViT", "network: post-norm, or pre-norm with long skips", choices=("ViT", "UViT"))
    hidden_size: int = option(768, "channels", min=1)
    num_hidden_layers: int = option(24, "blocks; UViT has one more, in the middle", min=1)
    num_attention_heads: int = option(16, "attention heads", min=1)
    intermediate_size: int = option(3072, "hidden channels of the MLPs", min=1)
    dropout: float = option(0.1, "ViT: dropout of embeddings, attention and MLP outputs; UViT has none", min=0, below=1)
    attn_drop: float = option(0.1, "ViT: dropout of attention weights; UViT has none", min=0, below=1)
    class_label_dropout: float = option(0.1, "share of images trained without their class, for guidance", min=0, max=1)
    label_smoothing: float = option(0.1, "training: share of the target spread evenly over all codes", min=0, below=1)
    loss_weight_unmasked_token: float = option(0.1, "training: weight of codes that are not masked", min=0)
    image_seq_len: int | None = option(None, "codes an image; null: as many as the tokenizer says", min=1)
    condition_num_classes: int = option(1000, "number of classes", min=1)
    num_steps: int = option(8, "sampling steps", min=1)
    randomize_temperature: float = option(11.0, "sampling temperature of the first step, annealed to 0", min=0)
    guidance_scale: float = option(3.0, "guidance scale; 0: no guidance")
    guidance_decay: str = option(
        "linear", "guidance over the sampling steps", choices=("constant", "linear", "power-cosine")
    )
    guidance_scale_pow: float = option(3.0, "power of power-cosine; larger: the scale stays low longer", min=0)
    softmax_temperature_annealing: bool = option(True, "divide logits by 0.5 + 0.8 times the share of steps to come")
    use_checkpoint: bool = option(False, "recompute activations in the backward pass: less memory, more time")
    seed: int = option(42, "seed of the sampling noise", min=0, below=2**63)
