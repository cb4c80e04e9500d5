"""Settings of RAR's generator. The defaults are those of RAR-B."""

from dataclasses import dataclass

from utils.config import option


@dataclass
class RARConfig:
    name: str = option("rar", "registered generator")
    hidden_size: int = option(768, "channels", min=1)
    num_hidden_layers: int = option(24, "blocks", min=1)
    num_attention_heads: int = option(16, "attention heads", min=1)
    intermediate_size: int = option(3072, "hidden channels of the MLPs", min=1)
    dropout: float = option(0.1, "dropout of attention and MLP outputs", min=0, below=1)
    attn_drop: float = option(0.1, "dropout of attention weights", min=0, below=1)
    class_label_dropout: float = option(0.1, "share of images trained without their class, for guidance", min=0, max=1)
    image_seq_len: int | None = option(None, "codes an image; null: as many as the tokenizer says", min=1)
    condition_num_classes: int = option(1000, "number of classes", min=1)
    randomize_temperature: float = option(1.0, "sampling temperature", min=0)
    guidance_scale: float = option(16.0, "guidance scale at the last code; 0: no guidance")
    guidance_scale_pow: float = option(2.75, "power of the guidance schedule; larger: the scale stays low longer")
    use_checkpoint: bool = option(False, "recompute activations in the backward pass: less memory, more time")
    randomness_anneal_start: int = option(125_000, "steps in which every image has a random order", min=0)
    randomness_anneal_end: int = option(187_500, "step from which on every image has raster order", min=0)
    seed: int = option(42, "seed of the sampling noise", min=0, below=2**63)

    def random_share(self, step: int) -> float:
        """Share of the images with a random order after `step` steps: 1, then down a straight line to 0."""
        start, end = self.randomness_anneal_start, self.randomness_anneal_end
        if step >= end:
            return 0.0
        return 1.0 - max(step - start, 0) / (end - start) if end > start else 1.0
