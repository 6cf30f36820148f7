"""Makes losses.npz: the losses of segmentation_models.pytorch and PyTorch, on random tensors.

    pip install torch==2.13.0 segmentation-models-pytorch==0.6.0
    python tests/golden/losses.py

Values and gradients are in double precision, Lovasz's in single precision. `case` gives the
tensors to the tests too.
"""

import importlib.util
import sys
import types
from pathlib import Path

import numpy as np

PATH = Path(__file__).with_suffix(".npz")
# The number of classes, and those that occur in the labels.
CASES = {"two": (2, (0, 1)), "seven": (7, (0, 2, 3, 6)), "many": (150, (3, 17, 149))}


def case(name: str) -> tuple[np.ndarray, np.ndarray]:
    """Returns logits float32 [2, 4, 5, C] and labels [2, 4, 5] with 12 ignored pixels (255)."""
    number, present = CASES[name]
    rng = np.random.default_rng(number)
    logits = 2 * rng.standard_normal([2, 4, 5, number]).astype(np.float32)
    labels = rng.choice(present, [2, 4, 5])
    labels[0, 1:3, 1:4] = 255
    labels[1, 3] = 255
    labels[1, 0, 0] = 255
    return logits, labels


def _losses():
    import torch

    # Without the package's __init__.py, since its encoders would need torchvision.
    name = "segmentation_models_pytorch"
    package = types.ModuleType(name)
    package.__path__ = list(importlib.util.find_spec(name).submodule_search_locations)
    sys.modules[name] = package
    smp = importlib.import_module(f"{name}.losses")

    multiclass = {"mode": "multiclass", "ignore_index": 255}
    dice, focal, lovasz = smp.DiceLoss, smp.FocalLoss, smp.LovaszLoss
    return {
        "dice": dice(**multiclass),
        "dice_smooth": dice(**multiclass, smooth=1.0),
        "dice_log": dice(**multiclass, log_loss=True),
        "focal": focal(**multiclass),
        "focal_weak": focal(**multiclass, gamma=0.5, alpha=0.25),
        "lovasz": lovasz(**multiclass),
        "lovasz_per_image": lovasz(**multiclass, per_image=True),
        "smoothing": torch.nn.CrossEntropyLoss(ignore_index=255, label_smoothing=0.1),
    }


def main():
    import torch

    arrays, losses = {}, _losses()
    for name in CASES:
        logits, labels = case(name)
        for loss_name, loss in losses.items():
            # Its Lovasz loss takes only float32.
            kind = np.float32 if loss_name.startswith("lovasz") else np.float64
            channels_first = torch.tensor(np.moveaxis(logits, -1, 1).astype(kind))
            channels_first.requires_grad_()
            value = loss(channels_first, torch.tensor(labels))
            value.backward()
            gradient = np.moveaxis(channels_first.grad.numpy(), 1, -1)
            arrays[f"{name}_{loss_name}"] = np.float64(value.item())
            arrays[f"{name}_{loss_name}_gradient"] = gradient.astype(np.float32)
    np.savez_compressed(PATH, **arrays)


if __name__ == "__main__":
    main()
