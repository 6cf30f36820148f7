"""Semantic image segmentation with DeepLab in TensorFlow 2 and Keras.

Importing the package does not import TensorFlow, but it decides which Keras TensorFlow will use
(`deeplab_tf.startup.legacy_keras`). So import it before the first use of tf.keras.
"""

import sys

from deeplab_tf.config import as_argument, checkpoint_choice
from deeplab_tf.startup import legacy_keras

__version__ = "0.1.0"

legacy_keras.select()
if "tensorflow" in sys.modules:
    legacy_keras.require()


def load_model(run_dir, output_stride=None, checkpoint=""):
    """Returns the Keras model of a run's folder, with one of its checkpoints restored.

    The logger `deeplab_tf` says which checkpoint it is (level INFO). It warns instead if you did
    not choose one and the folder has a better or newer one.

    Args:
      run_dir: folder of a run or of an imported checkpoint, or one checkpoint in it
        (.../model.ckpt-1000).
      output_stride: builds the network at another output stride than it was trained at.
      checkpoint: "newest", "best" (of those validated during training) or a step; empty takes the
        one that run_dir names, or the newest undamaged one in a folder.
    Returns:
      A `deeplab_tf.models.deeplab.DeepLab`. Called on float32 RGB images [B, H, W, 3] in 0..255,
      or on images of the channels that it was trained on, scaled to 0..255, it returns a dict with
      `logits` (float32, at the resolution of the output stride) and, if the model was trained with
      an auxiliary head, `aux_logits`.
    Raises:
      deeplab_tf.config.UserError: if the folder has no run, or not that checkpoint, or run_dir and
        `checkpoint` name two different ones.
    """
    from deeplab_tf.inference import opening  # imports TensorFlow

    choice = str(checkpoint)
    checkpoint_choice.require_one_choice(choice, str(run_dir), "run_dir", written=as_argument)
    return opening.loaded_run_of(run_dir, checkpoint=choice, output_stride=output_stride).model


def load(model, checkpoint="", **settings):
    """Opens a trained model to predict images with.

        prediction = deeplab_tf.load("runs/own", checkpoint="best").predict("photo.jpg")
        prediction.labels  # uint8 [H, W]

    Args:
      model: folder of a run or of an imported checkpoint, one checkpoint in it
        (.../model.ckpt-1000), the folder of an exported model, or the name of published weights,
        such as "voc_r101_os8", which are fetched and converted once.
      checkpoint: "newest", "best" (of those validated during training) or a step; empty takes the
        one that `model` names, or the newest undamaged one in a folder.
      settings: how images are predicted, if not as the run's recipe says; named as the flags of
        `predict`: eval_scales, add_flipped_images, inference_mode, eval_crop_size,
        eval_size_divisor, eval_crop_stride, window_blending, output_stride, min_resize_value,
        max_resize_value, resize_factor.
    Returns:
      A `deeplab_tf.inference.segmenter.Segmenter`. Its `predict` takes a path, an image of Pillow,
      an array, uint8 [H, W, 3], or a list of them; of a model of other channels or 16 bits, a path
      or an array of such an image. It predicts as `eval`, `vis` and `predict` do.
    Raises:
      deeplab_tf.config.UserError: if there is no such model or checkpoint, or a setting does not
        exist, is not allowed or is fixed in an exported model.
    """
    from deeplab_tf.inference import segmenter  # imports TensorFlow

    return segmenter.load(model, checkpoint=str(checkpoint), **settings)
