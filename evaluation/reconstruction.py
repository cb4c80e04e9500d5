"""PSNR and SSIM of reconstructions."""

import torch
import torch.nn.functional as F
from torch import Tensor

from modeling.layers.precision import full_float32

SSIM_WINDOW = 11
SSIM_SIGMA = 1.5
SSIM_CONSTANTS = (0.01**2, 0.03**2)  # c1 and c2 of the paper, for pixels in [0, 1]
MIN_SQUARED_ERROR = 1e-10  # limits PSNR to 100 dB


def psnr(images: Tensor, reconstruction: Tensor) -> Tensor:
    """Peak signal-to-noise ratio of each image in dB: 10 log10(1 / MSE).

    Both (B, 3, H, W) in [0, 1]. Returns (B,).
    """
    mse = (images.float() - reconstruction.float()).square().flatten(1).mean(1)
    return -10 * mse.clamp_min(MIN_SQUARED_ERROR).log10()


@full_float32()
def ssim(images: Tensor, reconstruction: Tensor) -> Tensor:
    """Structural similarity (Wang et al. 2004) of each image: mean over channels and window positions.

    Gaussian window of 11 x 11 with sigma 1.5, inside the image only; population variances.
    Both (B, 3, H, W) in [0, 1]. Returns (B,). Raises ValueError for sides below 11 pixels.
    """
    x, y = images.float(), reconstruction.float()
    if min(x.shape[-2:]) < SSIM_WINDOW:
        raise ValueError(f"SSIM needs images of at least {SSIM_WINDOW} pixels a side, these are {tuple(x.shape[-2:])}")
    distance = torch.arange(SSIM_WINDOW, device=x.device, dtype=x.dtype) - SSIM_WINDOW // 2
    taps = torch.exp(-0.5 * (distance / SSIM_SIGMA).square())
    taps = taps / taps.sum()

    def smooth(a: Tensor) -> Tensor:
        a = a.flatten(0, 1)[:, None]
        a = F.conv2d(F.conv2d(a, taps.view(1, 1, -1, 1)), taps.view(1, 1, 1, -1))
        return a.view(*x.shape[:2], *a.shape[2:])

    mean_x, mean_y = smooth(x), smooth(y)
    var_x = smooth(x * x) - mean_x.square()
    var_y = smooth(y * y) - mean_y.square()
    covariance = smooth(x * y) - mean_x * mean_y
    c1, c2 = SSIM_CONSTANTS
    luminance = (2 * mean_x * mean_y + c1) / (mean_x.square() + mean_y.square() + c1)
    structure = (2 * covariance + c2) / (var_x + var_y + c2)
    return (luminance * structure).flatten(1).mean(1)
