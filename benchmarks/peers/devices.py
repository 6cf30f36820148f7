"""The device that the peers' programs measure on, and what is fastest there."""

import sys

import torch

from benchmarks import pairs


def use(device: str) -> str:
    """Returns PyTorch's name of `device`, "cpu" or "gpu"; turns on TF32 and cuDNN's search."""
    if device == "cpu":
        return "cpu"
    if not torch.cuda.is_available():
        sys.exit(
            "--device=gpu: PyTorch finds no GPU; install its build for CUDA in benchmarks/.venv."
        )
    torch.backends.cuda.matmul.allow_tf32 = True
    torch.backends.cudnn.allow_tf32 = True
    torch.backends.cudnn.benchmark = True
    return "cuda"


def compiled(model: torch.nn.Module, device: str) -> torch.nn.Module:
    return torch.compile(model, mode="max-autotune" if device == "gpu" else None)


def wait(device: str) -> None:
    """Waits for what was asked of the device."""
    if device == "gpu":
        torch.cuda.synchronize()


def peak_mib(device: str) -> float:
    """Returns the most memory used so far: of the GPU, or of this process."""
    return torch.cuda.max_memory_allocated() / 2**20 if device == "gpu" else pairs.peak_mib()
