"""The peers' inference: torch.compile, onnxruntime and OpenVINO on one network.

In float32. All enlarge the logits to the image and return labels and probabilities, as ours does.
"""

import argparse
import math
import sys
import time
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional

from benchmarks import pairs
from benchmarks.peers import devices
from benchmarks.peers.model import DeepLabV3


class Labels(torch.nn.Module):
    """RGB in 0..255 -> labels and probabilities at the image's size."""

    def __init__(self, model):
        super().__init__()
        self.model = model
        self.register_buffer("mean", torch.tensor([123.675, 116.28, 103.53]).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor([58.395, 57.12, 57.375]).view(1, 3, 1, 1))

    def forward(self, images):
        logits = self.model((images - self.mean) / self.std)
        size = images.shape[2:]
        logits = functional.interpolate(logits, size, mode="bilinear", align_corners=False)
        return logits.argmax(1), logits.softmax(1)


def with_torch(model, images, folder):
    device = devices.use(args.device)
    model = model.to(device, memory_format=torch.channels_last)
    compiled = devices.compiled(model, args.device)
    images = torch.from_numpy(images).to(device, memory_format=torch.channels_last)
    return lambda: compiled(images)[0].cpu()  # the labels


def onnx_file(model, images, folder):
    path = folder / "model.onnx"
    torch.onnx.export(model, (torch.from_numpy(images),), str(path), dynamo=False)
    return str(path)


def with_onnxruntime(model, images, folder):
    import onnxruntime

    options = onnxruntime.SessionOptions()
    provider = "CUDAExecutionProvider" if args.device == "gpu" else "CPUExecutionProvider"
    file = onnx_file(model, images, folder)
    session = onnxruntime.InferenceSession(file, options, providers=[provider])
    if provider not in session.get_providers():
        sys.exit("onnxruntime finds no GPU here; pip install onnxruntime-gpu in its environment.")
    name = session.get_inputs()[0].name
    if args.device == "cpu":
        return lambda: session.run(None, {name: images})

    # As the other programs: the images are on the GPU already, and only the labels leave it.
    labels, probabilities = (output.name for output in session.get_outputs())
    binding = session.io_binding()
    on_gpu = onnxruntime.OrtValue.ortvalue_from_numpy(images, "cuda", 0)
    binding.bind_ortvalue_input(name, on_gpu)
    binding.bind_output(labels, "cpu")
    binding.bind_output(probabilities, "cuda")
    return lambda: session.run_with_iobinding(binding)


def with_openvino(model, images, folder):
    import openvino

    compiled = openvino.Core().compile_model(
        openvino.convert_model(onnx_file(model, images, folder)),
        "CPU",
        {"INFERENCE_PRECISION_HINT": "f32"},  # by default bfloat16 where the CPU has it
    )
    return lambda: compiled(images)


PROGRAMS = {"torch": with_torch, "onnxruntime": with_onnxruntime, "openvino": with_openvino}

parser = argparse.ArgumentParser()
parser.add_argument("--program", choices=PROGRAMS)
parser.add_argument("--depth", type=int)
parser.add_argument("--output_stride", type=int)
parser.add_argument("--crop_size", type=lambda text: tuple(map(int, text.split(","))))
parser.add_argument("--batch_size", type=int)
parser.add_argument("--device")
parser.add_argument("--num_classes", type=int)
parser.add_argument("--calls", type=int)
parser.add_argument("--folder", type=Path)
args = parser.parse_args()

torch.manual_seed(0)
network = Labels(DeepLabV3(args.depth, args.output_stride, args.num_classes)).eval()
rng = np.random.default_rng(0)
pictures = rng.uniform(0, 255, (args.batch_size, 3, *args.crop_size)).astype(np.float32)
with torch.inference_mode():
    call = PROGRAMS[args.program](network, pictures, args.folder)


def measure():
    with torch.inference_mode():
        call()
        start = time.perf_counter()
        for _ in range(args.calls):
            call()
        seconds = time.perf_counter() - start
    rate = args.calls * args.batch_size / seconds
    # PyTorch does not count what onnxruntime takes of a GPU.
    is_known = args.device == "cpu" or args.program == "torch"
    return {"images/s": rate, "peak MiB": devices.peak_mib(args.device) if is_known else math.nan}


pairs.serve(measure)
