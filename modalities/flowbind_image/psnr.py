"""How near generated pictures are to their own references, pixel by pixel.

    PSNR(x, y) = 10 log10(255^2 / MSE(x, y)) dB, with MSE the mean over pixels and colours

SSIM: Wang et al., "Image quality assessment: from error visibility to structural similarity", IEEE
Transactions on Image Processing 13(4), 2004.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from flowbind.metric import Metric
from flowbind_image.square import to_square

LEVELS = 255
# The least mean squared error: that of rounding to levels. So equal pictures have 58.9 dB, not
# infinitely many.
LEAST_ERROR = 1 / 12
# Of structural similarity: a Gaussian window, and what keeps quotients finite.
WINDOW = 11  # pixels a side
SPREAD = 1.5  # its standard deviation, in pixels
C1 = (0.01 * LEVELS) ** 2
C2 = (0.03 * LEVELS) ** 2
AT_ONCE = 256  # pictures


class PSNR(Metric):
    """Peak signal-to-noise ratio, and structural similarity, means over pictures.

    - `psnr`: in dB, of all three colours of 8 bits; 58.9 for equal pictures.
    - `ssim`: means over all windows within a picture and its three colours; 1 for equal pictures.

    Higher is better. They tell how near a picture is to one answer, where there is one, as in
    super-resolution; a blurred picture has more than a sharp one that is a little off.

    Args:
        size: Pixels a side to which generated and real pictures are resized, stretched where they
            are not square.
    """

    judges = against = "image"

    def __init__(self, size: int = 64) -> None:
        if size < WINDOW:
            raise ValueError(f"size must be at least {WINDOW} pixels, not {size}")

        self.size = size

    def features(self, kind: str, raws: Sequence[Tensor]) -> Tensor:
        """B pictures, uint8 with shape (B, 3, size, size)."""
        pictures = torch.stack([to_square(raw, self.size) for raw in raws])
        return pictures.to(self.device)

    def compute(self, made: Tensor, reference: Tensor) -> dict[str, float]:
        ratios = []
        similarities = []
        pairs = zip(made.split(AT_ONCE), reference.split(AT_ONCE), strict=True)
        for x, y in pairs:
            x, y = x.double(), y.double()
            ratios.append(signal_to_noise(x, y))
            similarities.append(structural_similarity(x, y))

        size = f"{self.size}x{self.size}"
        return {
            f"psnr[flowbind,{size}]": torch.cat(ratios).mean().item(),
            f"ssim[flowbind,{size}]": torch.cat(similarities).mean().item(),
        }


def signal_to_noise(x: Tensor, y: Tensor) -> Tensor:
    """Peak signal-to-noise ratios in dB, with shape (B,), of levels with shape (B, 3, H, W)."""
    error = (x - y).square().flatten(1).mean(1)
    return 20 * math.log10(LEVELS) - 10 * error.clamp(min=LEAST_ERROR).log10()


def structural_similarity(x: Tensor, y: Tensor) -> Tensor:
    """SSIM, with shape (B,), of levels with shape (B, 3, H, W), each side at least 11 pixels.

    Equation 13 of Wang et al., with the constants and the window of their own code.
    """
    mean_x = _in_windows(x)
    mean_y = _in_windows(y)
    variance_x = _in_windows(x * x) - mean_x**2
    variance_y = _in_windows(y * y) - mean_y**2
    covariance = _in_windows(x * y) - mean_x * mean_y

    alike_in_mean = (2 * mean_x * mean_y + C1) / (mean_x**2 + mean_y**2 + C1)
    alike_in_structure = (2 * covariance + C2) / (variance_x + variance_y + C2)
    return (alike_in_mean * alike_in_structure).flatten(1).mean(1)


def _in_windows(x: Tensor) -> Tensor:
    """Means in all windows that lie within a picture: (B, 3, H, W) -> (B, 3, H - 10, W - 10)."""
    offsets = torch.arange(WINDOW, dtype=x.dtype, device=x.device) - WINDOW // 2
    weights = torch.exp(-offsets.square() / (2 * SPREAD**2))
    weights = weights / weights.sum()

    for axis in (2, 3):
        x = x.unfold(axis, WINDOW, 1) @ weights
    return x
