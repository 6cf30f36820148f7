"""How official DeepLab and this package call the variables of one layer.

Each function yields pairs of names, ours first. Kernels have the same layout in both.
"""

from collections.abc import Iterator

Pairs = Iterator[tuple[str, str]]


def conv_norm(ours: str, theirs: str) -> Pairs:
    """A convolution without bias, and its batch normalisation."""
    yield f"{ours}/conv/kernel", f"{theirs}/weights"
    yield from _norm(f"{ours}/norm", theirs)


def depthwise_norm(ours: str, theirs: str) -> Pairs:
    """A depthwise convolution without bias, and its batch normalisation."""
    yield f"{ours}/depthwise/depthwise_kernel", f"{theirs}/depthwise_weights"
    yield from _norm(f"{ours}/depthwise_norm", theirs)


def separable(ours: str, theirs: str) -> Pairs:
    """A depthwise and a pointwise convolution, each with its batch normalisation."""
    yield from depthwise_norm(ours, f"{theirs}_depthwise")
    yield from conv_norm(f"{ours}/pointwise", f"{theirs}_pointwise")


def conv_bias(ours: str, theirs: str) -> Pairs:
    """A convolution with bias, and without batch normalisation."""
    yield f"{ours}/kernel", f"{theirs}/weights"
    yield f"{ours}/bias", f"{theirs}/biases"


def _norm(ours: str, theirs: str) -> Pairs:
    for name in ("gamma", "beta", "moving_mean", "moving_variance"):
        yield f"{ours}/{name}", f"{theirs}/BatchNorm/{name}"
