"""Names and shapes of official DeepLab's variables, written from its own tables.

They come from research/deeplab (core/xception.py, core/resnet_v1_beta.py, core/model.py) and slim
(nets/mobilenet), and share nothing with the package. The golden files' keys check them.
"""

import math

# (kernel, inner channels, channels, squeeze-and-excite) of V3's units.
_V3_LARGE = [
    *((3, 16, 16, 0), (3, 64, 24, 0), (3, 72, 24, 0), (5, 72, 40, 1), (5, 120, 40, 1)),
    *((5, 120, 40, 1), (3, 240, 80, 0), (3, 200, 80, 0), (3, 184, 80, 0), (3, 184, 80, 0)),
    *((3, 480, 112, 1), (3, 672, 112, 1), (5, 336, 80, 1), (5, 480, 80, 1), (5, 480, 80, 1)),
]
_V3_SMALL = [
    *((3, 16, 16, 1), (3, 72, 24, 0), (3, 88, 24, 0), (5, 96, 40, 1), (5, 240, 40, 1)),
    *((5, 240, 40, 1), (5, 120, 48, 1), (5, 144, 48, 1), (5, 144, 48, 1), (5, 288, 48, 1)),
    (5, 288, 48, 1),
]
_V2_WIDTHS = [16, 24, 24, 32, 32, 32, 64, 64, 64, 64, 96, 96, 96, 160, 160, 160, 320]
_EDGE_WIDTHS = [16, *[32] * 4, *[48] * 4, *[96] * 8, *[160] * 4, 192]
UNITS = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 18: (2, 2, 2, 2)}


def conv(name, kernel, inputs, outputs):
    """A convolution and its batch normalisation."""
    return {f"{name}/weights": [kernel, kernel, inputs, outputs], **_norm(name, outputs)}


def biased(name, kernel, inputs, outputs):
    """A convolution with a bias."""
    return {f"{name}/weights": [kernel, kernel, inputs, outputs], f"{name}/biases": [outputs]}


def depthwise(name, kernel, channels):
    """A depthwise convolution and its batch normalisation."""
    kernels = {f"{name}/depthwise_weights": [kernel, kernel, channels, 1]}
    return kernels | _norm(name, channels)


def separable(name, inputs, outputs):
    """A depthwise 3x3 and a pointwise convolution."""
    pointwise = conv(f"{name}_pointwise", 1, inputs, outputs)
    return depthwise(f"{name}_depthwise", 3, inputs) | pointwise


def _norm(name, channels):
    parts = ("gamma", "beta", "moving_mean", "moving_variance")
    return {f"{name}/BatchNorm/{part}": [channels] for part in parts}


def rounded(value, divisor, least):
    """slim's _make_divisible."""
    result = max(least, int(value + divisor / 2) // divisor * divisor)
    return result + divisor if result < 0.9 * value else result


def xception(depth):
    """The variables of xception_41, 65 or 71, and the channels of its result."""
    top = f"xception_{depth}"
    names = conv(f"{top}/entry_flow/conv1_1", 3, 3, 32)
    names |= conv(f"{top}/entry_flow/conv1_2", 3, 32, 64)
    entry = [128, 256, 256, 728, 728] if depth == 71 else [128, 256, 728]
    units = [(f"entry_flow/block{i}/unit_1", [w] * 3, True) for i, w in enumerate(entry, 1)]
    count = 8 if depth == 41 else 16
    units += [(f"middle_flow/block1/unit_{i}", [728] * 3, False) for i in range(1, count + 1)]
    units += [("exit_flow/block1/unit_1", [728, 1024, 1024], True)]
    units += [("exit_flow/block2/unit_1", [1536, 1536, 2048], False)]
    channels = 64
    for unit, widths, has_shortcut in units:
        scope = f"{top}/{unit}/xception_module"
        if has_shortcut:
            names |= conv(f"{scope}/shortcut", 1, channels, widths[-1])
        for index, width in enumerate(widths, 1):
            names |= separable(f"{scope}/separable_conv{index}", channels, width)
            channels = width
    return names, channels


def resnet(depth, beta):
    """The variables of a ResNet, and the channels of its result."""
    top = f"resnet_v1_{depth}"
    names = {} if beta else conv(f"{top}/conv1", 7, 3, 64)
    if beta:
        narrow = 4 if depth == 18 else 1  # root_depth_multiplier
        names |= conv(f"{top}/conv1_1", 3, 3, 64 // narrow)
        names |= conv(f"{top}/conv1_2", 3, 64 // narrow, 64 // narrow)
        names |= conv(f"{top}/conv1_3", 3, 64 // narrow, 128 // narrow)
    channels = 128 // narrow if beta else 64
    for block, units in enumerate(UNITS[depth], 1):
        width = 32 * 2**block
        for unit in range(1, units + 1):
            scope = f"{top}/block{block}/unit_{unit}"
            scope += "/lite_bottleneck_v1" if depth == 18 else "/bottleneck_v1"
            result = width if depth == 18 else 4 * width
            if channels != result:
                names |= conv(f"{scope}/shortcut", 1, channels, result)
            if depth == 18:
                names |= conv(f"{scope}/conv1", 3, channels, width)
                names |= conv(f"{scope}/conv2", 3, width, width)
            else:
                names |= conv(f"{scope}/conv1", 1, channels, width)
                names |= conv(f"{scope}/conv2", 3, width, width)
                names |= conv(f"{scope}/conv3", 1, width, result)
            channels = result
    return names, channels


def mobilenet_v2(multiplier=1.0, divisor=None):
    """The variables of MobileNetV2 up to layer 18, and the channels of its result."""
    least = 8 if multiplier == 1 else 1
    widths = [rounded(w * multiplier, divisor or least, least) for w in [32, *_V2_WIDTHS]]
    names = conv("MobilenetV2/Conv", 3, 3, widths[0])
    for index, (channels, width) in enumerate(zip(widths, widths[1:], strict=False)):
        scope = f"MobilenetV2/expanded_conv{f'_{index}' if index else ''}"
        inner = rounded(6 * channels, 8, 8) if index else channels
        names |= conv(f"{scope}/expand", 1, channels, inner) if index else {}
        names |= depthwise(f"{scope}/depthwise", 3, inner)
        names |= conv(f"{scope}/project", 1, inner, width)
    return names, widths[-1]


def mobilenet_v3(size):
    """The variables of MobileNetV3 large or small for segmentation."""
    units, last = {"large": (_V3_LARGE, 480), "small": (_V3_SMALL, 288)}[size]
    names, channels = conv("MobilenetV3/Conv", 3, 3, 16), 16
    for index, (kernel, inner, width, has_gate) in enumerate(units):
        scope = f"MobilenetV3/expanded_conv{f'_{index}' if index else ''}"
        names |= conv(f"{scope}/expand", 1, channels, inner) if inner > channels else {}
        names |= depthwise(f"{scope}/depthwise", kernel, inner)
        if has_gate:
            squeezed = rounded(inner / 4, 8, 8)
            names |= biased(f"{scope}/squeeze_excite/Conv", 1, inner, squeezed)
            names |= biased(f"{scope}/squeeze_excite/Conv_1", 1, squeezed, inner)
        names |= conv(f"{scope}/project", 1, inner, width)
        channels = width
    return names | conv("MobilenetV3/Conv_1", 1, channels, last), last


def mobilenet_edgetpu(multiplier=1.0):
    """The variables of MobileNet EdgeTPU."""

    def scaled(width):
        return rounded(width * multiplier, 8, 8)

    names, channels = conv("MobilenetEdgeTPU/Conv", 3, 3, scaled(32)), scaled(32)
    for index, width in enumerate(map(scaled, _EDGE_WIDTHS)):
        scope = f"MobilenetEdgeTPU/expanded_conv{f'_{index}' if index else ''}"
        layer = index + 2
        factor = 1 if layer == 2 else 8 if layer in (3, 7, 11, 15, 19, 23) else 4
        inner = channels if factor == 1 else rounded(channels * factor, 8, 8)
        if factor > 1:
            names |= conv(f"{scope}/expand", 3 if layer <= 10 else 1, channels, inner)
        if layer > 10:
            names |= depthwise(f"{scope}/depthwise", 5 if 19 <= layer <= 22 else 3, inner)
        names |= conv(f"{scope}/project", 1, inner, width)
        channels = width
    last = scaled(1280)
    return names | conv("MobilenetEdgeTPU/Conv_1", 1, channels, last), last


def aspp(channels, filters=256, *, rates=0, plain=False, pooling=True, gate=False, project=True):
    """The variables of ASPP, and the channels of its result."""
    names = {}
    if pooling:
        names |= (biased if gate else conv)("image_pooling", 1, channels, filters)
    names |= conv("aspp0", 1, channels, filters)
    for index in range(1, rates + 1):
        if plain:
            names |= conv(f"aspp{index}", 3, channels, filters)
        else:
            names |= separable(f"aspp{index}", channels, filters)
    joined = filters * (1 + rates + (pooling and not gate))
    if project:
        names |= conv("concat_projection", 1, joined, filters)
    return names, filters if project else joined


def cell(channels, kernels, inputs):
    """The variables of a dense prediction cell, and the channels of its result."""
    names = {}
    for index, (kernel, source) in enumerate(zip(kernels, inputs, strict=True)):
        scope, width = f"meta_architecture/branch{index}", channels if source < 0 else 256
        if kernel == 3:
            names |= separable(scope, width, 256)
        else:
            names |= conv(scope, 1, width, 256)
    return names | conv("meta_architecture/concat_projection", 1, 256 * len(kernels), 256), 256


def decoder(channels, details, filters=256, *, merge="concat", plain=False, logits=False):
    """The variables of a decoder with a step for each of `details`, and its result's channels.

    Args:
      details: channels of the earlier stages' features.
    """
    names, layer = {}, biased if logits else conv
    for step, detail in enumerate(details):
        end = f"_{step}" if step else ""
        reduced = filters if merge == "sum" else 48
        names |= layer(f"decoder/feature_projection0{end}", 1, detail, reduced)
        if merge == "sum" and (plain or logits):
            kernel = 1 if logits else 3
            names |= layer(f"decoder/decoder_conv0{end}", kernel, channels, filters)
        elif merge == "sum":
            names |= separable(f"decoder/decoder_split_sep_conv0{end}", channels, filters)
        elif plain or logits:
            scope = f"decoder/decoder_conv0{end}/decoder_conv0{end}"
            names |= layer(f"{scope}_1", 3, channels + reduced, filters)
            names |= layer(f"{scope}_2", 3, filters, filters)
        else:
            names |= separable(f"decoder/decoder_conv0{end}", channels + reduced, filters)
            names |= separable(f"decoder/decoder_conv1{end}", filters, filters)
        channels = filters
    return names, channels


def classifier(channels, classes):
    """The variables of the last convolution."""
    return biased("logits/semantic", 1, channels, classes)


def network(backbone, *, context=None, details=(), classes=21, logits=False, **decoding):
    """The variables of a whole network.

    Args:
      backbone: what the functions above return for one.
      context: a function from the backbone's channels to names and channels; ASPP without atrous
        branches if None.
      details, logits, decoding: as in `decoder`.
    """
    names, channels = backbone
    inner, channels = (context or aspp)(channels)
    names = names | inner
    if details:
        inner, channels = decoder(channels, details, logits=logits, **decoding)
        names |= inner
    return names if logits else names | classifier(channels, classes)


def trainable(names):
    """Number of trainable weights."""
    return sum(math.prod(shape) for name, shape in names.items() if "/moving_" not in name)
