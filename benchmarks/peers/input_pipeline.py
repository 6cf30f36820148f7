"""Training examples the ancestor's way: OpenCV in the workers of a torch DataLoader.

(SSSegmentation, modules/datasets/pipelines: Resize, RandomCrop, RandomFlip,
PhotoMetricDistortion, Normalize, ToTensor, Padding.)
"""

import argparse
from pathlib import Path

import cv2
import numpy as np
import torch

from benchmarks import pairs

CROP, LONG, SHORT = 512, 2048, 512
MEAN, STD = np.array([123.675, 116.28, 103.53]), np.array([58.395, 57.12, 57.375])

parser = argparse.ArgumentParser()
parser.add_argument("--images_dir", type=Path)
parser.add_argument("--masks_dir", type=Path)
parser.add_argument("--num_images", type=int)
parser.add_argument("--batch_size", type=int)
args = parser.parse_args()


def resize(image, label):
    ratio = np.random.uniform(0.5, 2.0)
    height, width = label.shape
    scale = min(int(LONG * ratio) / max(height, width), int(SHORT * ratio) / min(height, width))
    size = int(width * scale + 0.5), int(height * scale + 0.5)
    image = cv2.resize(image, size, interpolation=cv2.INTER_LINEAR)
    return image, cv2.resize(label, size, interpolation=cv2.INTER_NEAREST)


def random_crop(image, label):
    height, width = label.shape
    for _ in range(10):
        top = np.random.randint(0, max(height - CROP, 0) + 1)
        left = np.random.randint(0, max(width - CROP, 0) + 1)
        window = np.s_[top : top + CROP, left : left + CROP]
        values, counts = np.unique(label[window], return_counts=True)
        counts = counts[values != 255]
        if len(counts) > 1 and counts.max() / counts.sum() < 0.75:
            break
    return image[window], label[window]


def clipped(values):
    return np.clip(values, 0, 255).astype(np.uint8)


def change_contrast(image):
    if np.random.randint(2):
        return clipped(image.astype(np.float32) * np.random.uniform(0.5, 1.5))
    return image


def distort(image):
    if np.random.randint(2):
        image = clipped(image.astype(np.float32) + np.random.uniform(-32, 32))
    contrast_first = np.random.randint(2)
    if contrast_first:
        image = change_contrast(image)
    if np.random.randint(2):
        hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV)
        hsv[..., 1] = clipped(hsv[..., 1].astype(np.float32) * np.random.uniform(0.5, 1.5))
        image = cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)
    if np.random.randint(2):
        hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV)
        hsv[..., 0] = (hsv[..., 0].astype(int) + np.random.randint(-18, 18)) % 180
        image = cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)
    return image if contrast_first else change_contrast(image)


def normalize(image):
    image = cv2.cvtColor(image, cv2.COLOR_BGR2RGB).astype(np.float32)
    cv2.subtract(image, np.float64(MEAN.reshape(1, -1)), image)
    return cv2.multiply(image, 1 / np.float64(STD.reshape(1, -1)), image)


def padded(image, label):
    rows, columns = CROP - label.shape[0], CROP - label.shape[1]
    sides = rows // 2, rows - rows // 2, columns // 2, columns - columns // 2
    image = cv2.copyMakeBorder(image, *sides, cv2.BORDER_CONSTANT, value=[0, 0, 0])
    return image, cv2.copyMakeBorder(label, *sides, cv2.BORDER_CONSTANT, value=[255])


class Examples(torch.utils.data.Dataset):
    def __init__(self):
        self.images = sorted(args.images_dir.iterdir())

    def __len__(self):
        return args.num_images

    def __getitem__(self, index):
        path = self.images[index % len(self.images)]
        image = cv2.imread(str(path))
        label = cv2.imread(str(args.masks_dir / f"{path.stem}.png"), cv2.IMREAD_GRAYSCALE)
        image, label = random_crop(*resize(image, label.astype(np.float32)))
        if np.random.rand() < 0.5:
            image, label = np.flip(image, axis=1), np.flip(label, axis=1)
        image, label = padded(normalize(distort(np.ascontiguousarray(image))), label.copy())
        return torch.from_numpy(image.transpose(2, 0, 1)), torch.from_numpy(label)


loader = torch.utils.data.DataLoader(
    Examples(), batch_size=args.batch_size, num_workers=2, shuffle=True, persistent_workers=True
)
pairs.serve_passes(loader, args.num_images)
