"""Trains SSSegmentation's DeepLabV3 in PyTorch, in float64: what `tests/training/test_parity.py`
compares the package's training with.

python benchmarks/peers/training_parity.py FOLDER

FOLDER/job.json has the settings, FOLDER/batches.npz the normalised images [N, B, H, W, 3] and
labels [N, B, H, W] of N steps. Written are the weights at the start, and weights and momentum after
some steps: FOLDER/peers_STEP.npz, with PyTorch's names; and FOLDER/peers_losses.json.
"""

import json
import sys
from pathlib import Path

import model as peers
import numpy as np
import torch
from torch.nn import functional


def loss_of(outputs, labels):
    """The loss of `model.loss`, but 0 and not NaN where no pixel is valid."""
    valid = torch.clamp((labels != 255).sum(), min=1)
    total = 0.0
    for logits, weight in zip(outputs, (1.0, 0.4), strict=True):
        enlarged = functional.interpolate(
            logits, labels.shape[1:], mode="bilinear", align_corners=False
        )
        summed = functional.cross_entropy(enlarged, labels, ignore_index=255, reduction="sum")
        total = total + weight * summed / valid
    return total


def arrays_of(network, optimizer):
    """Weights, moving statistics and momentum by their names."""
    arrays = {name: value.numpy().copy() for name, value in network.state_dict().items()}
    for name, parameter in network.named_parameters():
        state = optimizer.state.get(parameter, {})
        if "momentum_buffer" in state:
            arrays[f"momentum/{name}"] = state["momentum_buffer"].numpy().copy()
    return arrays


def main(folder: Path) -> None:
    job = json.loads((folder / "job.json").read_text())
    peers.BLOCKS[50] = tuple(job["blocks"])
    torch.manual_seed(0)
    network = peers.DeepLabV3(50, job["output_stride"], job["classes"], job["width"]).double()
    for name, part in network.named_modules():
        if isinstance(part, torch.nn.Dropout2d):
            part.p = 0.0
        if name.endswith("bn3"):  # from larger ones rounding errors grow tenfold with each step
            torch.nn.init.constant_(part.weight, 0.1)
    network.train()
    if not job["fine_tune_batch_norm"]:
        for part in network.modules():
            if isinstance(part, torch.nn.BatchNorm2d):
                part.eval()

    base, end, steps = job["base_learning_rate"], job["end_learning_rate"], job["total_steps"]
    decay = {"momentum": job["momentum"], "weight_decay": job["weight_decay"]}
    optimizer = torch.optim.SGD(network.parameters(), lr=base, **decay)
    np.savez(folder / "peers_0.npz", **arrays_of(network, optimizer))

    losses = []
    with np.load(folder / "batches.npz") as batches:
        images, labels = batches["normalized"], batches["labels"]
    for step, (batch, label) in enumerate(zip(images, labels, strict=True)):
        optimizer.param_groups[0]["lr"] = (base - end) * (1 - step / steps) ** 0.9 + end
        optimizer.zero_grad()
        outputs = network(torch.from_numpy(batch.transpose(0, 3, 1, 2).copy()))
        loss = loss_of(outputs, torch.from_numpy(label.astype(np.int64)))
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        if step + 1 in job["snapshots"]:
            np.savez(folder / f"peers_{step + 1}.npz", **arrays_of(network, optimizer))
    (folder / "peers_losses.json").write_text(json.dumps(losses))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
