import numpy as np
import pytest
import torch
from scipy.ndimage import correlate1d

from evaluation.reconstruction import psnr, ssim


def reference_ssim(x: np.ndarray, y: np.ndarray) -> float:
    """Wang et al. 2004 in numpy and scipy, one channel (H, W), float64."""
    taps = np.exp(-0.5 * (np.arange(-5, 6) / 1.5) ** 2)
    taps /= taps.sum()

    def smooth(a: np.ndarray) -> np.ndarray:
        return correlate1d(correlate1d(a, taps, 0), taps, 1)[5:-5, 5:-5]

    mx, my = smooth(x), smooth(y)
    vx, vy, cov = smooth(x * x) - mx**2, smooth(y * y) - my**2, smooth(x * y) - mx * my
    c1, c2 = 0.01**2, 0.03**2
    return float(np.mean((2 * mx * my + c1) * (2 * cov + c2) / ((mx**2 + my**2 + c1) * (vx + vy + c2))))


def test_ssim_and_psnr():
    torch.manual_seed(0)
    x = torch.rand(2, 3, 20, 33, dtype=torch.float64)
    y = (x + 0.1 * torch.randn_like(x)).clamp(0, 1)
    expected = [np.mean([reference_ssim(x[i, c].numpy(), y[i, c].numpy()) for c in range(3)]) for i in range(2)]
    torch.testing.assert_close(ssim(x, y).double(), torch.tensor(expected), atol=1e-5, rtol=0)
    torch.testing.assert_close(ssim(x, x), torch.ones(2))
    mse = ((x - y) ** 2).mean((1, 2, 3))
    torch.testing.assert_close(psnr(x, y).double(), 10 * torch.log10(1 / mse), atol=1e-4, rtol=0)
    with pytest.raises(ValueError, match="at least 11 pixels"):
        ssim(x[..., :10], y[..., :10])
