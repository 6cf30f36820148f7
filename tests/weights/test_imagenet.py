"""Keras' ResNets with random weights, against the backbones that they become."""

import numpy as np
import pytest
import tensorflow as tf

from deeplab_tf.messages import UserError
from deeplab_tf.models.deeplab import build_model
from deeplab_tf.models.forward_pass import ForwardPass
from deeplab_tf.weights import imagenet, mapping, sources

RNG = np.random.default_rng(0)


def draw_weights(model):
    """Gives statistics and biases random values, so that a mistake with them shows."""
    for layer in model.layers:
        values = []
        for weight in layer.weights:
            shape = weight.shape
            if "variance" in weight.name or "gamma" in weight.name:
                values.append(RNG.uniform(0.7, 1.3, shape))
            elif len(shape) == 4:
                values.append(RNG.standard_normal(shape) / np.sqrt(np.prod(shape[:3])))
            else:
                values.append(0.1 * RNG.standard_normal(shape))
        layer.set_weights(values)


def backbone_of(source):
    model = build_model(source.config, num_classes=2)
    mapping.assign(model, source.arrays, kept=("aspp/", "classifier/"))
    return lambda images: model._features(images, ForwardPass())["stage4"].numpy()


@pytest.mark.parametrize("size", [(96, 65)])
def test_keras_applications(size):
    theirs = tf.keras.applications.ResNet50(include_top=False, weights=None)
    draw_weights(theirs)
    images = RNG.uniform(0, 255, (1, *size, 3)).astype(np.float32)
    prepared = tf.keras.applications.resnet.preprocess_input(images.copy())
    expected = theirs(prepared).numpy()
    ours = backbone_of(imagenet.from_application(theirs, output_stride=32))(images)
    assert np.abs(ours - expected).max() / expected.std() < 5e-4


@pytest.mark.slow
@pytest.mark.parametrize("size", [(96, 65)])
def test_keras_cv(size):
    from keras_cv.models import ResNetBackbone

    theirs = ResNetBackbone(
        stackwise_filters=[64, 128, 256, 512],
        stackwise_blocks=[3, 4, 6, 3],
        stackwise_strides=[1, 2, 2, 2],
        include_rescaling=True,
    )
    draw_weights(theirs)
    images = RNG.uniform(0, 255, (1, *size, 3)).astype(np.float32)
    expected = theirs(images).numpy()
    ours = backbone_of(imagenet.from_keras_cv(theirs, output_stride=32))(images)
    assert np.abs(ours - expected).max() / expected.std() < 5e-4


@pytest.mark.parametrize("depth", [101, pytest.param(152, marks=pytest.mark.slow)])
def test_the_depth_is_read_off_the_model(depth):
    deep = getattr(tf.keras.applications, f"ResNet{depth}")(include_top=False, weights=None)
    source = imagenet.from_application(deep)
    assert source.config.model_variant == f"resnet_v1b_{depth}" and source.num_classes == 0
    # Without the moving statistics, which are not trained, and into which Keras' biases have gone.
    ours = [array for name, array in source.arrays.items() if "moving" not in name]
    theirs = [w for w in deep.trainable_weights if "conv/bias" not in w.name]
    assert sum(array.size for array in ours) == sum(np.prod(w.shape) for w in theirs)
    with pytest.raises(UserError, match="The keras-cv model is not a ResNet-50"):
        imagenet.from_keras_cv(deep)


def test_unknown_models_are_refused_in_one_sentence():
    with pytest.raises(UserError, match="VGG16 is unknown; allowed: ResNet50, ResNet101 and"):
        sources.read("keras.applications:VGG16")


def test_presets_without_weights_are_refused():
    with pytest.raises(UserError, match="resnet50 has no weights; allowed: .*resnet50_imagenet"):
        sources.read("keras_cv:resnet50")
