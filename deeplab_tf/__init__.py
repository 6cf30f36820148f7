"""Semantic image segmentation with DeepLab in TensorFlow 2 and Keras.

Importing the package does not import TensorFlow.
"""

__version__ = "0.1.0"


def load_model(run_dir, output_stride=None):
    """Returns the Keras model of a run's folder, its newest whole checkpoint restored.

    Args:
      run_dir: folder of a run or of an imported checkpoint, or one checkpoint in it
        (.../model.ckpt-1000).
      output_stride: unrolls the network at another output stride than it was trained at.
    Returns:
      A `deeplab_tf.models.deeplab.DeepLab`. Called on float32 RGB images [B, H, W, 3] in 0..255
      it returns a dict with `logits` (float32, at stride resolution, before enlarging) and, where
      trained, `aux_logits`.
    Raises:
      deeplab_tf.config.UserError: if there is no run, or no whole checkpoint, in the folder.
    """
    from deeplab_tf.training import run_dir as run_dir_lib

    return run_dir_lib.load(run_dir, output_stride=output_stride).model
