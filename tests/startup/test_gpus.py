"""GPUs that TensorFlow does not use, on file systems as the kernel shows them."""

import pytest

from deeplab_tf import distribution
from deeplab_tf.startup import gpus

# The first lines of a file of NVIDIA's driver.
INFORMATION = "Model: \t\t NVIDIA GeForce GTX 1080\nIRQ:   \t\t 139\nGPU UUID: \t GPU-00000000\n"


def with_driver(root, number=1):
    for index in range(number):
        folder = root / f"proc/driver/nvidia/gpus/0000:0{index}:00.0"
        folder.mkdir(parents=True)
        (folder / "information").write_text(INFORMATION)
        (root / "dev").mkdir(exist_ok=True)
        (root / f"dev/nvidia{index}").touch()
    (root / "dev/nvidiactl").touch()
    return root


def on_bus(root, vendor="0x10de", kind="0x030200"):
    folder = root / "sys/bus/pci/devices/0000:01:00.0"
    folder.mkdir(parents=True)
    (folder / "vendor").write_text(f"{vendor}\n")
    (folder / "class").write_text(f"{kind}\n")
    return root


def why(root, environment=None, *, has_cuda=True, has_libraries=True):
    host = gpus.on_host(root)
    return gpus.why_unused(
        host, environment or {}, version="2.15.1", has_cuda=has_cuda, has_libraries=has_libraries
    )


def test_a_host_without_gpus_is_told_nothing(tmp_path):
    (tmp_path / "dev").mkdir()
    assert why(tmp_path) == ""
    assert why(on_bus(tmp_path, vendor="0x1002"), has_cuda=False) == ""


def test_a_sound_card_of_nvidia_is_no_gpu(tmp_path):
    assert why(on_bus(tmp_path, kind="0x040300")) == ""


@pytest.mark.parametrize(
    ("visible", "hides"),
    # CUDA takes the entries up to the first that is no device.
    [("", True), ("-1", True), ("-1,0", True), ("none", True), ("2", True), ("7,0", True)]
    + [("0", False), ("1,-1", False), ("0,7", False), ("GPU-5d1", False), ("MIG-5d1", False)],
)
def test_the_variable_that_hides_gpus_is_named(tmp_path, visible, hides):
    said = why(with_driver(tmp_path, 2), {"CUDA_VISIBLE_DEVICES": visible})
    assert said.startswith("TensorFlow does not see 2 x NVIDIA GeForce GTX 1080, so the CPU")
    assert (f"CUDA_VISIBLE_DEVICES={visible!r} hides it" in said) == hides


def test_each_cause_names_its_way_out(tmp_path):
    root = with_driver(tmp_path / "driver")
    assert "built without CUDA" in why(root, has_cuda=False)
    assert "pip install 'tensorflow[and-cuda]==2.15.1' (this" in why(root, has_libraries=False)
    assert "TF_CPP_MIN_LOG_LEVEL=0 python" in why(root)
    assert "driver is not loaded" in why(on_bus(tmp_path / "bus"))


def test_the_driver_may_have_a_gpu_that_a_container_was_not_given(tmp_path):
    root = with_driver(tmp_path)
    for device in (root / "dev").iterdir():
        device.unlink()
    assert "--gpus=all" in why(root)


def test_a_gpu_older_than_the_build_is_told():
    built_for = ["sm_50", "sm_60", "compute_80"]
    assert "compute capability 3.7, but" in gpus.why_too_old((3, 7), built_for)
    assert gpus.why_too_old((5, 0), built_for) == gpus.why_too_old((12, 0), ["sm_120a"]) == ""
    assert "built for 12.0 or later" in gpus.why_too_old((9, 0), ["sm_120a"])
    assert gpus.why_too_old((3, 7), []) == ""  # a build that does not tell


def test_a_program_warns_once_unless_it_was_told_to_use_the_cpu(monkeypatch, capsys):
    monkeypatch.setattr(gpus, "on_host", lambda: gpus.HostGpus(1, "NVIDIA T4", has_driver=True))
    distribution._warn_of_unusable_gpus.cache_clear()
    try:
        distribution.on_this_host(0)
        assert capsys.readouterr().err == ""
        for _ in range(2):
            distribution.on_this_host(-1)
        said = capsys.readouterr().err
    finally:
        distribution._warn_of_unusable_gpus.cache_clear()
    assert said.startswith("Warning: TensorFlow does not see NVIDIA T4, so the CPU computes")
    assert len(said.splitlines()) == 1
