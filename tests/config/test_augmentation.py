import pytest

from deeplab_tf.config import DataConfig, UserError


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"hsv_jitter": (0.1, 0.2)}, "--hsv_jitter=0.1,0.2 .* three numbers, for hue, saturation"),
        ({"hsv_jitter": (0.6, 0.2, 0.2)}, "--hsv_jitter=0.6,0.2,0.2 .* at most 0.5, half a turn"),
        ({"grid_mask_size": (9, 8)}, "--grid_mask_size=9,8 .* the smallest,the largest side"),
        ({"grid_mask_ratio": 1.0}, "--grid_mask_ratio=1.0 .* not including, 1"),
        ({"max_rotation_degrees": 181}, "--max_rotation_degrees=181.0 .* 0 to 180"),
        ({"max_blur_sigma": 17}, "--max_blur_sigma=17.0 .* 0 to 16.0"),
        ({"randaugment_operations": 11}, "--randaugment_operations=11 .* 0 to 10"),
        ({"randaugment_magnitude": 5}, "--randaugment_magnitude=5.0 .* 0 to 1"),
        ({"cutmix_probability": 1.5}, "--cutmix_probability=1.5 .* 0 to 1"),
    ],
)
def test_what_is_no_augmentation_is_refused(values, message):
    with pytest.raises(UserError, match=message):
        DataConfig(**values)


def test_all_of_it_is_off_by_default():
    config = DataConfig()
    assert not config.hsv_jitter and not config.max_blur_sigma and not config.max_rotation_degrees
    assert not config.randaugment_operations
    assert not config.grid_mask_probability and not config.cutmix_probability
