"""The synthetic activations of the ADM parity fixture (tests/parity/README.md)."""

from functools import cache

import numpy as np

from tests.parity.deterministic import normal


@cache
def activations(kind: str, n: int, scale: float, shift: float) -> tuple[np.ndarray, np.ndarray]:
    """Pool (n, 2048) and spatial (n, 2023) features, float32."""
    g = normal(f"adm-{kind}-latent", (n, 12)) * np.float32(scale) + np.float32(shift)
    pool = np.abs(
        g @ normal("adm-pool-basis", (12, 2048)) * np.float32(0.2)
        + normal(f"adm-{kind}-pool-noise", (n, 2048)) * np.float32(0.02)
    )
    spatial = g @ normal("adm-spatial-basis", (12, 2023)) * np.float32(0.1) + normal(
        f"adm-{kind}-spatial-noise", (n, 2023)
    ) * np.float32(0.05)
    return pool, spatial


def reference_activations() -> tuple[np.ndarray, np.ndarray]:
    return activations("reference", 2600, 1, 0)


def sample_activations() -> tuple[np.ndarray, np.ndarray]:
    return activations("sample", 2400, 0.9, 0.25)
