"""Peak rates of NVIDIA's GPUs as their data sheets state them."""

# Part of the device's name -> dense bf16 TFLOP/s with float32 sums. The first that matches counts.
DENSE_BF16 = (
    ("B200", 2250),
    ("H200", 989),
    ("H100 PCIe", 756),
    ("H100 NVL", 835),
    ("H100", 989),  # SXM
    ("A100", 312),
    ("A40", 149.7),
    ("L40S", 362),
    ("L40", 181),
    ("L4", 121),
    ("RTX 4090", 165.2),
    ("RTX 3090", 71),
    ("RTX A6000", 154.8),
)


def dense_bf16_peak(device_name: str) -> float | None:
    """Operations per second; None for a device that is not listed."""
    return next((1e12 * peak for name, peak in DENSE_BF16 if name in device_name), None)
