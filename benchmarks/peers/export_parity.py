"""An exported model in the peers' programs: OpenVINO on the SavedModel, onnxruntime on ONNX."""

import argparse
from pathlib import Path

from benchmarks import labelling


def with_onnxruntime(model):
    import onnxruntime

    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    return lambda images: session.run(["labels"], {"images": images})[0]


def with_openvino(model):
    import openvino

    compiled = openvino.Core().compile_model(
        model,
        "CPU",
        {"INFERENCE_PRECISION_HINT": "f32"},  # by default bfloat16 where possible
    )
    return lambda images: compiled({"images": images})["labels"]


PROGRAMS = {"onnxruntime": with_onnxruntime, "openvino": with_openvino}

parser = argparse.ArgumentParser()
parser.add_argument("--program", choices=PROGRAMS)
parser.add_argument("--model")
parser.add_argument("--images", type=Path)
parser.add_argument("--labels", type=Path)
parser.add_argument("--crop_size", type=int)
parser.add_argument("--calls", type=int)
args = parser.parse_args()

labelling.serve(
    PROGRAMS[args.program](args.model),
    args.images,
    args.labels,
    crop_size=args.crop_size,
    calls=args.calls,
)
