"""Notice a tokenizer training that has not begun to learn: it draws every image as the mean colour of all."""

LEAST_EXPLAINED = 0.1  # share of the images' variance
LATEST = 0.05  # share of the steps after which a training should have begun
ADVICE = "docs/training.md, 'A training that does not begin', says what to change"


class MeanColourWatch:
    """Warns at the first log after the warm-up and LATEST of the steps if the images are still drawn as one colour, and
    once more each time that this happens again."""

    def __init__(self, total_steps: int, warmup_steps: int):
        self.first_step = warmup_steps + LATEST * total_steps
        self.warned = False

    def warning(self, step: int, explained: float | None) -> str | None:
        """explained: see `modeling.layers.quantizer_start.explained_variance`; None: the tokenizer draws no pixels."""
        if explained is None or explained >= LEAST_EXPLAINED:
            self.warned = False
            return None
        if self.warned or step < self.first_step:
            return None
        self.warned = True
        return (
            f"warning: step {step}: every image is drawn as about the mean colour of all ({max(explained, 0):.0%} of"
            f" their variance is explained): {ADVICE}"
        )
