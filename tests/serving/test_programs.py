"""The exported model in programs that have no code of this package."""

import functools
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from deeplab_tf.evaluation.predictor import Predictor
from tests.serving import cases

WHEEL = Path(tf.__file__).parent
QUIET = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}


def run(*command, cwd=None):
    return subprocess.run(
        list(map(str, command)), capture_output=True, text=True, env=QUIET, cwd=cwd, timeout=300
    )


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    return cases.write(tmp_path_factory.mktemp("exported") / "model")


@pytest.fixture(scope="module")
def images():
    return cases.pictures()


@pytest.fixture(scope="module")
def expected(images):
    return Predictor(cases.model()).labels(images).numpy()


def same(found, expected):
    """Whether labels are equal but for pixels where two classes score alike."""
    return found.shape == expected.shape and (found == expected).mean() > 0.999


@pytest.mark.slow
def test_saved_model_cli_shows_and_runs_it(exported, images, expected, tmp_path):
    cli = [sys.executable, "-m", "tensorflow.python.tools.saved_model_cli"]
    shown = run(*cli, "show", "--dir", exported, "--all")
    assert shown.returncode == 0, shown.stderr
    for text in (
        "signature_def['serving_default']",
        "inputs['images'] tensor_info:\n        dtype: DT_UINT8\n        shape: (-1, -1, -1, 3)",
        "signature_def['serve_encoded']",
        "inputs['encoded_images'] tensor_info:\n        dtype: DT_STRING\n        shape: (-1)",
        "outputs['labels'] tensor_info:\n        dtype: DT_UINT8\n        shape: (-1, -1, -1)",
        "Method name is: tensorflow/serving/predict",
    ):
        assert text in shown.stdout, text
    np.save(tmp_path / "images.npy", images)
    done = run(
        *cli, "run", "--dir", exported, "--tag_set", "serve", "--signature_def", "serving_default",
        "--inputs", f"images={tmp_path}/images.npy", "--outdir", tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert same(np.load(tmp_path / "labels.npy"), expected)


def test_python_without_this_package_loads_it(exported, images, expected, tmp_path):
    np.save(tmp_path / "images.npy", images)
    code = (
        "import sys, numpy as np, tensorflow as tf\n"
        "sys.modules['deeplab_tf'] = None  # importing it would fail\n"
        f"serve = tf.saved_model.load({str(exported)!r}).signatures['serving_default']\n"
        "labels = serve(images=tf.constant(np.load('images.npy')))['labels']\n"
        "np.save('labels.npy', labels.numpy())\n"
    )
    done = run(sys.executable, "-I", "-c", code, cwd=tmp_path)  # -I: no path but the interpreter's
    assert done.returncode == 0, done.stderr
    assert same(np.load(tmp_path / "labels.npy"), expected)


def test_openvino_reads_it(exported, images, expected):
    openvino = pytest.importorskip("openvino", reason="OpenVINO is not installed")
    core = openvino.Core()
    compiled = core.compile_model(
        core.read_model(str(exported)), "CPU", {"INFERENCE_PRECISION_HINT": "f32"}
    )
    (labels,) = compiled(images).values()
    assert same(np.asarray(labels), expected)


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    """The C++ program, built against TensorFlow's own library as its wheel has it."""
    if not shutil.which("g++"):
        pytest.skip("g++ is not installed")
    libraries = sorted(WHEEL.glob("libtensorflow_cc.so.2")) + sorted(
        WHEEL.glob("libtensorflow_framework.so.2")
    )
    if len(libraries) < 2:
        pytest.skip("TensorFlow's wheel has no C++ library here")
    path = tmp_path_factory.mktemp("program") / "load_saved_model"
    source = Path(__file__).with_name("load_saved_model.cc")
    # Sessions and kernels register themselves: the linker sees no need of their library.
    done = run(
        "g++", "-std=c++17", "-O0", *tf.sysconfig.get_compile_flags(), source, "-o", path,
        "-Wl,--no-as-needed", *libraries, f"-Wl,-rpath,{WHEEL}",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return path


def ask(program, exported, signature, folder, *values):
    """Makes requests in one process; returns what it printed on each, and the labels."""
    paths = []
    for number, value in enumerate(values):
        paths.append(folder / f"request{number}")
        paths[-1].write_bytes(tf.make_tensor_proto(value).SerializeToString())
    done = run(program, exported, signature, *paths)
    assert done.returncode == 0, (
        f"{done.returncode} after {done.stdout.splitlines()}: {done.stderr[-2000:]}"
    )
    answers = [path.with_name(path.name + ".labels") for path in paths]
    labels = [np.fromfile(path, np.uint8) if path.is_file() else None for path in answers]
    return done.stdout.splitlines(), labels


def require_survival(ask_program, bad_cases, good, expected):
    """Each bad request is refused for its reason, and a good one after it is answered."""
    requests = [request for bad, _ in bad_cases.values() for request in (bad, good)]
    replies, labels = ask_program(*requests)
    assert len(replies) == len(requests)
    for number, (case, (_, reason)) in enumerate(bad_cases.items()):
        refusal, answer = replies[2 * number : 2 * number + 2]
        assert refusal.startswith("INVALID_ARGUMENT") and reason in refusal, case
        assert answer == "OK [2,45,60]", case
        assert same(labels[2 * number + 1].reshape(2, 45, 60), expected), case


@pytest.mark.slow
def test_a_cpp_server_survives_bad_images(program, exported, images, expected, tmp_path):
    """One process answers all of them; an image of the wrong rank once crashed it."""
    ask_program = functools.partial(ask, program, exported, "serving_default", tmp_path)
    require_survival(ask_program, cases.bad_images(), images, expected)


@pytest.mark.slow
def test_a_cpp_server_survives_bad_files(program, exported, images, expected, tmp_path):
    files = {name: (np.array(bad, object), why) for name, (bad, why) in cases.bad_files().items()}
    good = np.array([cases.encode(image) for image in images], object)
    ask_program = functools.partial(ask, program, exported, "serve_encoded", tmp_path)
    require_survival(ask_program, cases.bad_ranks() | files, good, expected)
