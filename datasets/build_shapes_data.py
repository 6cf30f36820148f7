r"""Draws the "shapes" data set, from which the demo and the tests learn without a download.

    python -m datasets.build_shapes_data --output_dir=shapes
    python -m datasets.build_folder_data --images_dir=shapes/images --masks_dir=shapes/masks \
        --class_list=shapes/classes.csv --output_dir=records

Six kinds of textured shapes overlap on cluttered backgrounds; their size, turn, colour and light
vary. Masks are palette PNGs like PASCAL VOC's, with a border of the ignored label around every
shape. Everything follows from the seed and the number of the image.
"""

import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from deeplab_tf.config import Config, flags, require_given, setting
from deeplab_tf.messages import counted

IGNORE_LABEL = 255
COLORS = {
    "background": (0, 0, 0),
    "disc": (230, 60, 60),
    "square": (60, 180, 75),
    "triangle": (70, 110, 240),
    "star": (245, 200, 40),
    "ring": (170, 70, 210),
    "cross": (70, 210, 220),
}
_SIN60 = 3**0.5 / 2


@dataclass(frozen=True, kw_only=True)
class ShapesConfig(Config):
    """How many images are drawn, and where."""

    output_dir: str = setting("", "Folder for images/, masks/ and classes.csv.")
    num_train: int = setting(480, "Images in split train.", least=1)
    num_val: int = setting(100, "Images in split val.", least=1)
    seed: int = setting(0, "Seed of everything that is drawn.", least=0)

    def __post_init__(self):
        super().__post_init__()
        require_given("output_dir", self.output_dir, "a path")


def main(config: ShapesConfig) -> None:
    """Draws both splits, unless an earlier call with the same settings did."""
    root = Path(config.output_dir)
    marker = root / "drawn.txt"  # written last, so that an interrupted call is not up to date
    if marker.is_file() and marker.read_text() == repr(config):
        print(f"{root} is up to date.")
        return

    marker.unlink(missing_ok=True)
    # All 256 colours: with fewer, Pillow would store 4 bits per pixel and cut off the value 255.
    palette = np.zeros([256, 3], np.uint8)
    palette[: len(COLORS)] = list(COLORS.values())
    rows = [f"{name},{r},{g},{b}" for name, (r, g, b) in COLORS.items()]

    for part in ("images", "masks"):
        shutil.rmtree(root / part, ignore_errors=True)
    for split, (number, count) in {
        "train": (0, config.num_train),
        "val": (1, config.num_val),
    }.items():
        for part in ("images", "masks"):
            (root / part / split).mkdir(parents=True)
        for index in range(count):
            rng = np.random.default_rng([config.seed, number, index])
            image, label = draw_example(rng)
            name = f"{split}_{index:04d}"
            Image.fromarray(image).save(root / "images" / split / f"{name}.jpg", quality=92)
            mask = Image.fromarray(label)
            mask.putpalette(palette.tobytes())
            mask.save(root / "masks" / split / f"{name}.png")

    (root / "classes.csv").write_text("\n".join(["name,r,g,b", *rows]) + "\n")
    marker.write_text(repr(config))
    print(f"{root}: {config.num_train} training and {counted(config.num_val, 'validation image')}.")


def draw_example(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Draws one image, uint8 [H, W, 3], and its label, uint8 [H, W]; H and W are 112 to 160."""
    height, width = rng.integers(112, 161, 2)
    image = _background(rng, height, width)
    label = np.zeros([height, width], np.uint8)
    for _ in range(rng.integers(2, 6)):
        _draw_shape(rng, image, label)

    light = 1 + 0.35 * _ramp(rng, height, width)
    image = image * (rng.uniform(0.7, 1.15) * light)[..., np.newaxis]
    image += rng.normal(0, 5, image.shape)
    return np.clip(image, 0, 255).astype(np.uint8), label


def _draw_shape(rng: np.random.Generator, image: np.ndarray, label: np.ndarray) -> None:
    """Draws a random shape over what image and label hold."""
    height, width = label.shape
    kind = int(rng.integers(1, len(COLORS)))
    radius = rng.uniform(18, 44)
    center_y, center_x = rng.uniform(0, height), rng.uniform(0, width)
    turn = rng.uniform(0, 2 * np.pi)

    # u and v are the pixels' coordinates along the axes of the shape.
    y, x = np.mgrid[:height, :width]
    y, x = y - center_y, x - center_x
    u = np.cos(turn) * x + np.sin(turn) * y
    v = np.cos(turn) * y - np.sin(turn) * x
    is_inside, texture = list(_KINDS.values())[kind - 1]
    body = is_inside(u, v, radius)

    first = np.clip(list(COLORS.values())[kind] + rng.uniform(-40, 40, 3), 0, 255)
    second = first * rng.uniform(0.2, 0.6)
    share = texture(u, v, rng)[..., np.newaxis]
    image[body] = (first * share + second * (1 - share))[body]
    label[body] = kind
    label[_border(body)] = IGNORE_LABEL


def _border(body: np.ndarray) -> np.ndarray:
    """Returns the pixels on either side of the body's edge, bool [H, W]."""
    padded = np.pad(body, 1, mode="edge")
    height, width = body.shape
    around = [padded[i : i + height, j : j + width] for i in range(3) for j in range(3)]
    return np.any(around, axis=0) & ~np.all(around, axis=0)


def _background(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    first, second = _dull_color(rng), _dull_color(rng)
    blend = (_ramp(rng, height, width)[..., np.newaxis] + 1) / 2
    image = first * blend + second * (1 - blend)

    y, x = np.mgrid[:height, :width]
    for _ in range(rng.integers(6, 16)):  # clutter: soft blobs and bars without texture
        turn, size = rng.uniform(0, np.pi), rng.uniform(4, 22)
        center_y, center_x = rng.uniform(0, height), rng.uniform(0, width)
        across = np.cos(turn) * (x - center_x) + np.sin(turn) * (y - center_y)
        along = np.cos(turn) * (y - center_y) - np.sin(turn) * (x - center_x)
        weight = np.exp(-((across / size) ** 2) - (along / (size * rng.uniform(0.5, 5))) ** 2)
        weight = weight[..., np.newaxis] * rng.uniform(0.3, 0.9)
        image = image * (1 - weight) + _dull_color(rng) * weight
    return image


def _dull_color(rng: np.random.Generator) -> np.ndarray:
    return rng.uniform(60, 195) + rng.uniform(-60, 60, 3)


def _ramp(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Returns a plane that rises from -1 to 1 across the picture, in a random direction."""
    turn = rng.uniform(0, 2 * np.pi)
    y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    return (np.cos(turn) * x + np.sin(turn) * y) / 2**0.5


# For each kind of shape: which points (u, v) are inside a shape of radius r, and its texture, 0..1.


def _disc(u, v, r):
    return u**2 + v**2 < r**2


def _square(u, v, r):
    return np.maximum(abs(u), abs(v)) < 0.85 * r


def _triangle(u, v, r):
    return np.maximum(-v, np.maximum(_SIN60 * u + v / 2, -_SIN60 * u + v / 2)) < 0.6 * r


def _star(u, v, r):
    angle = np.arctan2(v, u)
    return np.hypot(u, v) < r * (0.76 + 0.28 * np.cos(5 * angle))


def _ring(u, v, r):
    return abs(np.hypot(u, v) - 0.75 * r) < 0.27 * r


def _cross(u, v, r):
    return (np.minimum(abs(u), abs(v)) < 0.3 * r) & (np.maximum(abs(u), abs(v)) < r)


def _dots(u, v, rng):
    pitch = rng.uniform(5, 8)
    return (np.cos(2 * np.pi * u / pitch) * np.cos(2 * np.pi * v / pitch) > 0.35).astype(float)


def _stripes(u, v, rng):
    return (np.sin(2 * np.pi * u / rng.uniform(5, 9)) > 0).astype(float)


def _checks(u, v, rng):
    pitch = rng.uniform(8, 14)
    return (np.sin(2 * np.pi * u / pitch) * np.sin(2 * np.pi * v / pitch) > 0).astype(float)


def _rays(u, v, rng):
    return (np.cos(10 * np.arctan2(v, u)) > 0).astype(float)


def _circles(u, v, rng):
    return (np.sin(2 * np.pi * np.hypot(u, v) / rng.uniform(5, 8)) > 0).astype(float)


def _speckle(u, v, rng):
    return rng.uniform(0, 1, u.shape)


_KINDS = {
    "disc": (_disc, _dots),
    "square": (_square, _stripes),
    "triangle": (_triangle, _checks),
    "star": (_star, _rays),
    "ring": (_ring, _circles),
    "cross": (_cross, _speckle),
}


def run() -> None:
    flags.run(main, [ShapesConfig], (__doc__ or "").strip())


if __name__ == "__main__":
    run()
