"""Which numbers of a run the report shows."""

from deeplab_tf.reporting import made


def test_a_validation_without_a_score_hides_no_loss():
    """All its pixels were ignored; its line in metrics.jsonl has the step of a loss."""
    entries = [
        {"step": 10, "loss": 1.0},
        {"step": 20, "loss": 0.5},
        {"step": 20, "split": "val", "miou": None},
    ]
    assert made._points(entries, "loss") == [(10, 1.0), (20, 0.5)]
