import pytest

from deeplab_tf.config import Experiment, TrainConfig, UserError, flags, groups
from deeplab_tf.config.setting import without_effect


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"loss": ()}, "--loss= .*: one or more of cross_entropy, focal, dice, lovasz_softmax"),
        ({"loss": ("dice", "iou")}, "--loss=dice,iou .*: one of cross_entropy, focal, dice, lov"),
        ({"loss": ("dice", "dice")}, "--loss=dice,dice .*: each loss once; --loss_weights"),
        ({"loss": ("dice",), "loss_weights": (1, 2)}, "--loss_weights=1.0,2.0 .* of --loss=dice"),
        ({"loss_weights": (0,)}, "--loss_weights=0.0 .* at least one number above 0"),
        (
            {"loss": ("focal", "dice"), "top_k_percent_pixels": 0.5},
            "--top_k_percent_pixels=0.5 selects .* which dice do not have; give --top_k_percent",
        ),
        ({"label_smoothing": 1.0}, "--label_smoothing=1.0 .* 0 to, not including, 1|not including"),
    ],
)
def test_what_cannot_be_summed_is_refused_in_one_sentence(values, message):
    with pytest.raises(UserError, match=message):
        TrainConfig(**values)


def test_the_ways_out_are_possible():
    assert TrainConfig(loss=("focal", "dice"), top_k_percent_pixels=1.0)
    assert TrainConfig(loss=("focal", "cross_entropy"), top_k_percent_pixels=0.5)


@pytest.mark.parametrize(
    ("setting", "loss"),
    [
        ({"label_smoothing": 0.1}, "cross_entropy"),
        ({"focal_gamma": 1.0}, "focal"),
        ({"focal_alpha": 0.25}, "focal"),
        ({"dice_smooth": 1.0}, "dice"),
        ({"dice_log_loss": True}, "dice"),
        ({"lovasz_per_image": True}, "lovasz_softmax"),
    ],
)
def test_settings_of_a_loss_need_it_among_the_losses(setting, loss):
    (name,) = setting
    other = "dice" if loss == "cross_entropy" else "cross_entropy"
    lacking = without_effect(_groups(loss=(other,), **setting))
    assert lacking[name] == f"--loss={loss}"
    assert name not in without_effect(_groups(loss=(other, loss), **setting))


def _groups(**values):
    return groups(Experiment(train=TrainConfig(**values)))


def test_losses_survive_experiment_flags(tmp_path):
    train = TrainConfig(loss=("cross_entropy", "dice"), loss_weights=(1.0, 0.5), dice_smooth=2.0)
    path = tmp_path / "experiment.flags"
    path.write_text(flags.flagfile_text(Experiment(train=train)), encoding="utf-8")
    assert {"--loss=cross_entropy,dice", "--loss_weights=1.0,0.5"} <= {*path.read_text().split()}
    assert flags.parse_flagfile(path).train == train
