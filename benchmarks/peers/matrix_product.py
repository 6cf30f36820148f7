"""The device's limit: the rate of square matrix products, the best of three."""

import argparse
import time

import torch

from benchmarks import pairs
from benchmarks.peers import devices

parser = argparse.ArgumentParser()
parser.add_argument("--device", default="cpu")
parser.add_argument("--dtype_policy", default="float32")
args = parser.parse_args()

device = devices.use(args.device)
SIDE = 4096 if device == "cpu" else 8192
TYPE = torch.float32 if args.dtype_policy == "float32" else torch.bfloat16
A, B = (torch.randn(SIDE, SIDE, device=device, dtype=TYPE) for _ in range(2))


def measure():
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        A @ B
        devices.wait(args.device)
        seconds.append(time.perf_counter() - start)
    return {"GFLOP/s": 2 * SIDE**3 / min(seconds) / 1e9}


pairs.serve(measure)
