"""Growth: the time and memory of a training step and of inference by pixels and by batch.

    python -m benchmarks.growth

The network is SSSegmentation's R50 at output stride 16, in the programs that `training_step` and
`inference` measure. There is no peer: a cost that grows linearly leaves the pixels/s as they are,
and each further pixel takes the same memory. The last line is the least ratio of a series' largest
step to its smallest, in pixels/s.
"""

import itertools
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from benchmarks import pairs
from deeplab_tf.config import Config, flags, setting

TRAINED_SIZES, TRAINED_BATCHES = (256, 384, 512), (2, 4, 8)
PREDICTED_SIZES = (256, 512, 1024)


@dataclass(frozen=True, kw_only=True)
class GrowthConfig(Config):
    """How often is measured."""

    pairs: int = setting(5, "Measurements of each program.", least=1)


def main(config: GrowthConfig) -> None:
    by_pixels = [(size, TRAINED_BATCHES[0]) for size in TRAINED_SIZES]
    by_batch = [(TRAINED_SIZES[0], batch) for batch in TRAINED_BATCHES]
    ratios = [
        series("training, pixels", by_pixels, training, config.pairs),
        series("training, batch", by_batch, training, config.pairs),
    ]
    with tempfile.TemporaryDirectory() as folder:
        exporting = pairs.ours("inference", f"--export={folder}/ours")
        subprocess.run(exporting, cwd=pairs.ROOT, check=True)

        def inference(size: int, _: int) -> list[str]:
            return pairs.ours("inference", f"--worker={folder}/ours", f"--crop_size={size},{size}")

        by_pixels = [(size, 1) for size in PREDICTED_SIZES]
        ratios.append(series("inference, pixels", by_pixels, inference, config.pairs))
    print(f"ratio: {min(ratios):.3f}")


def training(size: int, batch: int) -> list[str]:
    """Returns the command that measures a step of `batch` images of size x size."""
    steps = [f"--crop_size={size},{size}", f"--batch_size={batch}"]
    return pairs.ours("training_step", *steps, "--worker")


def series(
    title: str,
    cases: Sequence[tuple[int, int]],
    command: Callable[[int, int], list[str]],
    turns: int,
) -> float:
    """Measures and prints cases of growing size, in turns.

    Args:
      cases: height (which is the width too) and images, the smallest first.
      command: of the program that measures a case.
    Returns:
      The pixels/s of the largest case divided by the smallest's: the median over the turns.
    """
    programs = [
        pairs.Program(f"{batch} of {size}x{size}", command(size, batch)) for size, batch in cases
    ]
    pairs.take_turns(programs, turns)
    print(f"{title}:")
    for (size, _), program in zip(cases, programs, strict=True):
        rate = program.median("images/s") * size**2 / 1e6
        print(f"    {program.title}: {rate:.4g} Mpixel/s, {program.median('peak MiB'):.4g} MiB")
    megapixels = [batch * size**2 / 1e6 for size, batch in cases]
    for (less, before), (more, program) in itertools.pairwise(
        zip(megapixels, programs, strict=True)
    ):
        added = program.median("peak MiB") - before.median("peak MiB")
        print(f"    {program.title}: {added / (more - less):.4g} MiB for each further Mpixel")
    for program in programs:
        program.close()
    growth = cases[-1][0] / cases[0][0]
    return programs[-1].over(programs[0], "images/s") * growth**2


if __name__ == "__main__":
    flags.run(main, [GrowthConfig], (__doc__ or "").strip())
