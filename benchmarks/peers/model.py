"""SSSegmentation's DeepLabV3 in plain PyTorch, with its names (docs/ancestors.md)."""

import torch
from torch import nn
from torch.nn import functional

BLOCKS = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}
# Stride and rate of the four stages by output stride; a stage's first block keeps the rate of the
# stage before.
STAGES = {8: ((1, 2, 1, 1), (1, 1, 2, 4)), 16: ((1, 2, 2, 1), (1, 1, 1, 2))}
RATES = {8: (12, 24, 36), 16: (6, 12, 18)}


def conv(inputs, outputs, kernel, stride=1, rate=1):
    """A convolution without bias, padded symmetrically."""
    padding = (kernel - 1) // 2 * rate
    return nn.Conv2d(inputs, outputs, kernel, stride, padding, rate, bias=False)


def conv_norm_relu(inputs, outputs, kernel, stride=1, rate=1):
    """Convolution, batch normalisation, ReLU."""
    norm = nn.BatchNorm2d(outputs)
    return nn.Sequential(conv(inputs, outputs, kernel, stride, rate), norm, nn.ReLU(inplace=True))


class Bottleneck(nn.Module):
    def __init__(self, inputs, width, stride, rate, project):
        super().__init__()
        self.conv1, self.bn1 = conv(inputs, width, 1), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = conv(width, width, 3, stride, rate), nn.BatchNorm2d(width)
        self.conv3, self.bn3 = conv(width, 4 * width, 1), nn.BatchNorm2d(4 * width)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = None
        if project:
            norm = nn.BatchNorm2d(4 * width)
            self.downsample = nn.Sequential(conv(inputs, 4 * width, 1, stride), norm)

    def forward(self, x):
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.relu(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        return self.relu(out + (self.downsample(x) if self.downsample else x))


class Backbone(nn.Module):
    def __init__(self, depth, output_stride):
        super().__init__()
        stem = ((3, 32, 2), (32, 32, 1), (32, 64, 1))
        self.stem = nn.Sequential(
            *(layer for a, b, s in stem for layer in conv_norm_relu(a, b, 3, s))
        )
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        inputs, before = 64, 1
        for index, (blocks, stride, rate) in enumerate(
            zip(BLOCKS[depth], *STAGES[output_stride], strict=True)
        ):
            layer, width = [], 64 * 2**index
            for block in range(blocks):
                settings = (stride, before) if block == 0 else (1, rate)
                layer.append(Bottleneck(inputs, width, *settings, project=block == 0))
                inputs = 4 * width
            before = rate
            setattr(self, f"layer{index + 1}", nn.Sequential(*layer))

    def forward(self, x):
        x = self.layer2(self.layer1(self.maxpool(self.stem(x))))
        third = self.layer3(x)
        return third, self.layer4(third)


class ASPP(nn.Module):
    def __init__(self, inputs, outputs, rates):
        super().__init__()
        self.parallel_branches = nn.ModuleList(
            [conv_norm_relu(inputs, outputs, 1)]
            + [conv_norm_relu(inputs, outputs, 3, 1, rate) for rate in rates]
        )
        self.global_branch = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), *conv_norm_relu(inputs, outputs, 1)
        )
        self.bottleneck = conv_norm_relu((len(rates) + 2) * outputs, outputs, 3)

    def forward(self, x):
        branches = [branch(x) for branch in self.parallel_branches]
        pooled = functional.interpolate(
            self.global_branch(x), x.shape[2:], mode="bilinear", align_corners=False
        )
        return self.bottleneck(torch.cat([*branches, pooled], 1))


class DeepLabV3(nn.Module):
    """Normalised images [B, 3, H, W] -> logits at the output stride and, in training, auxiliary."""

    def __init__(self, depth=50, output_stride=16, classes=21, width=512):
        super().__init__()
        self.backbone_net = Backbone(depth, output_stride)
        self.aspp_net = ASPP(2048, width, RATES[output_stride])
        self.decoder = nn.Sequential(nn.Dropout2d(0.1), nn.Conv2d(width, classes, 1))
        self.auxiliary_decoder = nn.Sequential(
            *conv_norm_relu(1024, width, 3), nn.Dropout2d(0.1), nn.Conv2d(width, classes, 1)
        )

    def forward(self, x):
        third, fourth = self.backbone_net(x)
        logits = self.decoder(self.aspp_net(fourth))
        return (logits, self.auxiliary_decoder(third)) if self.training else logits


def loss(outputs, labels):
    """Cross-entropy on the enlarged logits, the auxiliary head's weighted by 0.4."""
    total = 0.0
    for logits, weight in zip(outputs, (1.0, 0.4), strict=True):
        enlarged = functional.interpolate(
            logits, labels.shape[1:], mode="bilinear", align_corners=False
        )
        total = total + weight * functional.cross_entropy(enlarged, labels, ignore_index=255)
    return total
