"""How the official package's builder converts: one process, every image decoded in a session.

(research/deeplab/datasets/build_data.py, ImageReader; build_voc2012_data.py, _convert_dataset.)
Runs in our environment.
"""

import argparse
import tempfile
import time
from pathlib import Path

import tensorflow as tf

from benchmarks import pairs

parser = argparse.ArgumentParser()
parser.add_argument("--images_dir", type=Path)
parser.add_argument("--masks_dir", type=Path)
args = parser.parse_args()


class ImageReader:
    def __init__(self, decode):
        with tf.Graph().as_default():
            self.content = tf.compat.v1.placeholder(tf.string)
            self.image = decode(self.content)
            self.session = tf.compat.v1.Session()

    def size(self, content):
        return self.session.run(self.image, {self.content: content}).shape[:2]


def feature(value):
    if isinstance(value, int):
        return tf.train.Feature(int64_list=tf.train.Int64List(value=[value]))
    return tf.train.Feature(bytes_list=tf.train.BytesList(value=[value]))


images = ImageReader(lambda content: tf.io.decode_jpeg(content, channels=3))
masks = ImageReader(lambda content: tf.io.decode_png(content, channels=1))


def convert(path):
    content = path.read_bytes()
    mask = (args.masks_dir / f"{path.stem}.png").read_bytes()
    height, width = images.size(content)
    if masks.size(mask) != (height, width):
        raise SystemExit(f"{path} and its mask differ in size")
    features = {
        "image/encoded": feature(content),
        "image/filename": feature(path.stem.encode()),
        "image/format": feature(b"jpeg"),
        "image/height": feature(height),
        "image/width": feature(width),
        "image/channels": feature(3),
        "image/segmentation/class/encoded": feature(mask),
        "image/segmentation/class/format": feature(b"png"),
    }
    return tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString()


def measure():
    paths = sorted(args.images_dir.iterdir())
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        with tf.io.TFRecordWriter(f"{folder}/records") as writer:
            for path in paths:
                writer.write(convert(path))
        seconds = time.perf_counter() - start
    return {"images/s": len(paths) / seconds, "peak MiB": pairs.peak_mib()}


pairs.serve(measure)
