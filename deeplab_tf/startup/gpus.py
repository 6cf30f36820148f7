"""Why TensorFlow uses none of the GPUs of this host, without importing TensorFlow.

TensorFlow itself says so only in its log, which is long, and then computes on the CPU. What Linux
tells about NVIDIA's devices is enough to know that they are there, and for the usual causes.
"""

import contextlib
import importlib.metadata
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

_LOOK = (
    "TF_CPP_MIN_LOG_LEVEL=0 python -c "
    "'import tensorflow as tf; tf.config.list_physical_devices(\"GPU\")'"
)
_NVIDIA = "0x10de"  # its number on the PCI bus
_DISPLAY_CLASS = "0x03"  # of the PCI bus: display controllers, which GPUs without a display are too


@dataclass(frozen=True)
class HostGpus:
    """What a host has of NVIDIA.

    number: of its GPUs. model: of the first; "" if it is not told. has_driver: whether this process
    can reach their driver.
    """

    number: int
    model: str
    has_driver: bool

    def __str__(self) -> str:
        name = self.model or ("an NVIDIA GPU" if self.number == 1 else "NVIDIA GPUs")
        return f"{self.number} x {name}" if self.number > 1 else name


def on_host(root: Path = Path("/")) -> HostGpus:
    """Returns the GPUs that the kernel tells of; `root` is the root of its file system."""
    # https://download.nvidia.com/XFree86/Linux-x86_64/460.80/README/procinterface.html
    infos = sorted(root.glob("proc/driver/nvidia/gpus/*/information"))
    devices = [path for path in root.glob("dev/nvidia*") if re.fullmatch(r"nvidia\d+", path.name)]
    if devices or infos:
        return HostGpus(len(devices) or len(infos), _model(infos), has_driver=bool(devices))

    # Under Windows, a Linux sees its GPUs through one device and a library of the driver.
    wsl = (root / "dev/dxg").exists() and (root / "usr/lib/wsl/lib/libcuda.so.1").exists()
    if wsl:
        return HostGpus(1, "", has_driver=True)

    on_bus = [path for path in root.glob("sys/bus/pci/devices/*") if _is_gpu(path)]
    return HostGpus(len(on_bus), "", has_driver=False)


def _model(infos: Sequence[Path]) -> str:
    text = ""
    with contextlib.suppress(OSError):  # some containers may not read it
        text = infos[0].read_text(errors="replace") if infos else ""
    found = re.search(r"^Model:\s*(\S.*?)\s*$", text, re.MULTILINE)
    return found[1] if found else ""


def _is_gpu(device: Path) -> bool:
    try:
        vendor = (device / "vendor").read_text().strip()
        return vendor == _NVIDIA and (device / "class").read_text().startswith(_DISPLAY_CLASS)
    except OSError:
        return False


def why_unused(
    host: HostGpus,
    environment: Mapping[str, str],
    *,
    version: str,
    has_cuda: bool,
    has_libraries: bool,
) -> str:
    """Returns why a TensorFlow that sees no GPU sees none, and the way out; "" without GPUs.

    Args:
      environment: the process's environment variables.
      version: TensorFlow's.
      has_cuda: whether the installed TensorFlow was built for CUDA.
      has_libraries: whether pip has installed CUDA's libraries.
    """
    if not host.number:
        return ""

    install = f"pip install 'tensorflow[and-cuda]=={version}' (this package's extra [gpu])"
    start = f"TensorFlow does not see {host}, so the CPU computes"
    visible = environment.get("CUDA_VISIBLE_DEVICES")
    if visible is not None and _hides_all(visible, host.number):
        return (
            f"{start}: CUDA_VISIBLE_DEVICES={visible!r} hides it; unset that variable, or give "
            "--num_gpus=0 if you mean the CPU."
        )
    if not has_cuda:
        return (
            f"{start}: the installed TensorFlow is built without CUDA (such as tensorflow-cpu); "
            f"uninstall it, then {install}."
        )
    if not host.has_driver:
        return (
            f"{start}: its driver is not loaded, or not passed to this container; install NVIDIA's "
            "driver (nvidia-smi then lists the GPU), or start the container with --gpus=all."
        )
    if not has_libraries:
        return f"{start}: CUDA's libraries are probably missing; {install}."
    return f"{start}; the reason is in what this prints: {_LOOK}"


def _hides_all(visible: str, number: int) -> bool:
    """Whether a value of CUDA_VISIBLE_DEVICES hides all GPUs: CUDA stops at the first wrong one."""
    first = visible.split(",")[0].strip()
    if re.fullmatch(r"-?\d+", first):
        return not 0 <= int(first) < number
    return not first.startswith(("GPU-", "MIG-"))


def has_cuda_libraries() -> bool:
    """Whether pip has installed the libraries of the extra [gpu]."""
    names = (entry.metadata["Name"] or "" for entry in importlib.metadata.distributions())
    return any(name.lower().startswith("nvidia-cudnn") for name in names)


def why_too_old(capability: tuple[int, int], built_for: Sequence[str]) -> str:
    """Returns why TensorFlow leaves out a GPU that is older than its build; "" if it is not.

    Args:
      capability: the GPU's compute capability, such as (6, 1).
      built_for: what TensorFlow was built for, such as "sm_60" and "compute_80".
    """
    numbers = [re.fullmatch(r"(?:sm|compute)_(\d+)(\d)[a-z]?", name) for name in built_for]
    known = [(int(number[1]), int(number[2])) for number in numbers if number]
    if not known or capability >= min(known):
        return ""
    least = ".".join(map(str, min(known)))
    own = ".".join(map(str, capability))
    return (
        f"has compute capability {own}, but this TensorFlow is built for {least} or later, so it "
        "does not use it; take an earlier TensorFlow, or give --num_gpus=0."
    )
