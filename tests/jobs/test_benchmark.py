"""The benchmark that users run, and the peers that ours are compared with."""

import re
import subprocess

import pytest

from deeplab_tf.config import DataConfig, EvalConfig, ModelConfig, TrainConfig
from deeplab_tf.config.programs import BenchmarkConfig
from deeplab_tf.jobs import benchmark
from deeplab_tf.models.deeplab import DeepLab, build_model
from deeplab_tf.ops import convolution
from tests.test_architecture import ROOT

PEERS = ROOT / "benchmarks" / ".venv" / "bin" / "python"


@pytest.mark.parametrize("atrous", ["direct", "through space-to-batch"])
def test_operations_are_those_counted_by_hand(monkeypatch, atrous):
    monkeypatch.setattr(
        convolution, "direct_atrous_gradient_works", lambda dtype: atrous == "direct"
    )
    config = ModelConfig(
        model_variant="resnet_v1b_18",
        aspp_convs_filters=8,
        atrous_rates=(2,),
        add_image_level_feature=False,
        auxiliary_filters=4,
    )
    model = build_model(config, num_classes=3)
    stem = 32 * 32 * 7 * 7 * 3 * 64
    first = 16 * 16 * 4 * 9 * 64 * 64
    second = 8 * 8 * (9 * 64 * 128 + 3 * 9 * 128 * 128 + 64 * 128)
    third = 4 * 4 * (9 * 128 * 256 + 3 * 9 * 256 * 256 + 128 * 256)
    fourth = 4 * 4 * (9 * 256 * 512 + 3 * 9 * 512 * 512 + 256 * 512)
    aspp = 4 * 4 * (512 * 8 + 9 * 512 * 8 + 2 * 8 * 8)
    heads = 4 * 4 * (8 * 3 + 9 * 256 * 4 + 4 * 3)
    expected = 2 * (stem + first + second + third + fourth + aspp + heads)
    assert benchmark.forward_flops(model, 64, 64) == expected


@pytest.mark.parametrize(
    "variant", ["resnet_v1b_18", pytest.param("mobilenet_v2", marks=pytest.mark.slow)]
)
def test_operations_of_an_image_pyramid_are_those_of_all_its_scales(variant):
    """65 pixels are int(64 * 0.5 + 1) = 33 at half the size."""

    def network(*scales):
        config = ModelConfig(
            model_variant=variant,
            aspp_convs_filters=8,
            auxiliary_filters=4,
            decoder_output_stride=(4,),
            image_pyramid=scales,
        )
        return build_model(config, num_classes=3)

    plain = network()
    half, whole = (benchmark.forward_flops(plain, side, side) for side in (33, 65))
    assert half < whole
    for scales in ((0.5, 1.0), (1.0, 0.5)):
        assert benchmark.forward_flops(network(*scales), 65, 65) == half + whole


@pytest.mark.parametrize(
    "settings",
    [
        {},
        pytest.param(
            {
                "gradient_accumulation_steps": 2,
                "clip_gradient_norm": 1.0,
                "last_layer_gradient_multiplier": 2.0,
                "ema_decay": 0.5,
                "top_k_percent_pixels": 0.5,
                "label_weights": (1.0, 2.0, 1.0, 1.0, 1.0, 1.0, 1.0),
                "dtype_policy": "mixed_bfloat16",
                "steps_per_execution": 2,
                "jit_compile": True,
                "fine_tune_batch_norm": False,
                "slow_start_step": 1,
                "optimizer": "adam",
            },
            marks=pytest.mark.slow,
        ),
    ],
    ids=["plain", "everything"],
)
def test_it_prints_the_figures_of_a_run(records_dir, capsys, monkeypatch, settings):
    compiled = []
    compile_model = DeepLab.compile
    monkeypatch.setattr(
        DeepLab,
        "compile",
        lambda self, *args, **given: (compiled.append(given), compile_model(self, *args, **given)),
    )
    benchmark.main(
        BenchmarkConfig(benchmark_steps=2, warmup_steps=1),
        ModelConfig(model_variant="resnet_v1b_18", aspp_convs_filters=8),
        DataConfig(dataset_dir=str(records_dir), train_crop_size=(33, 33)),
        TrainConfig(train_batch_size=2, recompute_stages=0, **settings),
        EvalConfig(),
    )
    (given,) = compiled
    of_the_optimizer = ("ema_decay", "dtype_policy", "slow_start_step", "optimizer")
    for name in settings.keys() - set(of_the_optimizer):
        assert given[name] == settings[name]
    text = capsys.readouterr().out
    figures = {
        name: float(value)
        for name, value in re.findall(r"^([a-z ]+): ([\d.e+]+) ", text, flags=re.MULTILINE)
    }
    assert set(figures) == {
        "parameters",
        "forward",
        "training",
        "peak memory of the process",
        "waiting for input",
    }
    assert all(value > 0 for name, value in figures.items() if name != "waiting for input")
    assert 0 <= figures["waiting for input"] <= 100


def test_the_peers_network_gives_the_golden_logits(shared):
    if not PEERS.exists():
        pytest.skip(f"{PEERS} is not here; `make bench` makes it")
    code = """
import json, sys
import numpy as np, torch
sys.path.append(sys.argv[1])
import rule
from benchmarks.peers.model import DeepLabV3
name = f"{sys.argv[1]}/ssseg_r50_os16_c150"
shapes = json.load(open(f"{name}_keys.json"))
weights = {key: torch.from_numpy(np.asarray(rule.array(key, shapes[key]))) for key in shapes}
model = DeepLabV3(depth=50, output_stride=16, classes=150)
model.load_state_dict(weights)
image = torch.from_numpy(rule.image("ssseg_r50_os16_c150_128x128", (1, 3, 128, 128)))
with torch.no_grad():
    logits = model.eval()(image).numpy()
golden = np.load(f"{name}.npz")["logits_low_128x128"]
print(np.abs(logits - golden).max() / golden.std())
"""
    command = [PEERS, "-c", code, shared / "golden"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 1e-4
