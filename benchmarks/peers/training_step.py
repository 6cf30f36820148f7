"""The peer's training step: PyTorch, as its fastest setting has it."""

import argparse
import time

import torch

from benchmarks import pairs
from benchmarks.peers import devices
from benchmarks.peers.model import DeepLabV3, loss

parser = argparse.ArgumentParser()
parser.add_argument("--depth", type=int)
parser.add_argument("--output_stride", type=int)
parser.add_argument("--crop_size", type=lambda text: tuple(map(int, text.split(","))))
parser.add_argument("--batch_size", type=int)
parser.add_argument("--num_classes", type=int)
parser.add_argument("--steps", type=int)
parser.add_argument("--device")
parser.add_argument("--dtype_policy")
parser.add_argument("--eager", action="store_true")
args = parser.parse_args()

device = devices.use(args.device)
torch.manual_seed(0)
model = DeepLabV3(args.depth, args.output_stride, args.num_classes)
model = model.to(device, memory_format=torch.channels_last).train()
optimizer = torch.optim.SGD(model.parameters(), 0.01, momentum=0.9, weight_decay=5e-4)
forward = model if args.eager else devices.compiled(model, args.device)
images = torch.randn(args.batch_size, 3, *args.crop_size)
images = images.to(device, memory_format=torch.channels_last)
labels = torch.randint(0, args.num_classes, (args.batch_size, *args.crop_size), device=device)
half = torch.autocast(device, torch.bfloat16, enabled=args.dtype_policy == "mixed_bfloat16")


def measure():
    start = time.perf_counter()
    for _ in range(args.steps):
        optimizer.zero_grad()
        with half:
            value = loss(forward(images), labels)
        value.backward()
        optimizer.step()
    devices.wait(args.device)
    seconds = time.perf_counter() - start
    rate = args.batch_size * args.steps / seconds
    return {"images/s": rate, "peak MiB": devices.peak_mib(args.device)}


pairs.serve(measure)
