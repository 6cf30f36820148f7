"""The network that all benchmarks measure."""

from deeplab_tf.config import ModelConfig
from deeplab_tf.models.deeplab import DeepLab, build_model


def ssseg(depth: int, output_stride: int, num_classes: int, *, auxiliary: bool = False) -> DeepLab:
    """Builds SSSegmentation's DeepLabV3, untrained (docs/ancestors.md)."""
    config = ModelConfig(
        model_variant=f"resnet_v1c_{depth}",
        output_stride=output_stride,
        aspp_convs_filters=512,
        aspp_projection_kernel_size=3,
        auxiliary_filters=512 if auxiliary else 0,
    )
    return build_model(config, num_classes=num_classes)
