"""The boundary F-score: how well a prediction's outlines follow the label's.

For each image and class, precision is the share of the prediction's boundary pixels that lie at
most the tolerance away from a boundary pixel of the label; recall is the same the other way round;
the F-score is their harmonic mean (Csurka et al., What is a good evaluation measure for semantic
segmentation?, BMVC 2013, sec. 3). The tolerance is a share of the image's diagonal, 0.0075 there.

What a boundary pixel is, and that the tolerance is rounded up to whole pixels, is as in the DAVIS
benchmark (Perazzi et al. 2016, `db_eval_boundary`), of one class against all others: a pixel is on
the boundary if it differs from its neighbour on the right, below, or below on the right. So the
border of the image is no boundary.

A pair of pixels does not count if one of the two is ignored, so the border of an ignored area is no
boundary either. A class has no score in an image whose label shows the class without any boundary:
nobody knows then where its outline is, since all of it may be ignored, as in PASCAL VOC. Otherwise,
if only one of the two maps has a boundary, the score is 0. A class's score for a split is the mean
over the images in which it has one; a class of whose outlines no label shows any that counts has
none, in the split and in its images: what is predicted of it could only be wrong.
"""

import math

import numpy as np
from scipy.spatial import cKDTree

from deeplab_tf.data.catalog import DatasetInfo
from deeplab_tf.evaluation.evaluator import CountedBatch
from deeplab_tf.evaluation.metrics import mean_of_numbers


class BoundaryScores:
    """Collects the boundary F-scores of each image of a split.

    Args:
      images: number of images in the split. tolerance: as `f_scores` takes it.
    """

    def __init__(self, images: int, info: DatasetInfo, *, tolerance: float):
        self._info, self._tolerance = info, tolerance
        self._scores = np.full([images, info.num_classes], np.nan)
        self._has_outline = np.zeros(info.num_classes, bool)  # in the labels
        self._known = self._unknown = 0

    def add(self, counted: CountedBatch) -> None:
        """Takes a batch of images."""
        batch, ignore_label = counted.batch, self._info.ignore_label
        images = zip(batch.numbers, batch.labels[..., 0], counted.predictions.numpy(), strict=True)
        for number, label, prediction in images:
            scores = f_scores(
                label,
                prediction,
                num_classes=self._info.num_classes,
                ignore_label=ignore_label,
                tolerance=self._tolerance,
            )
            self._scores[number] = scores
            # A class that the label shows has a score only if its outline counts. The ignored
            # label may be a class's number too, as in ade20k_151.
            shown = np.isin(np.arange(len(scores)), label[label != ignore_label])
            self._has_outline |= shown & ~np.isnan(scores)
            steps = label[:, 1:] != label[:, :-1]
            beside = (label[:, 1:] == ignore_label) | (label[:, :-1] == ignore_label)
            self._known += np.count_nonzero(steps & ~beside)
            self._unknown += np.count_nonzero(steps & beside)

    @property
    def scores(self) -> np.ndarray:
        """The scores of each class in each image, float64 [images, classes]; NaN where none is."""
        return np.where(self._has_outline, self._scores, np.nan)

    @property
    def of_classes(self) -> np.ndarray:
        """The mean of each class over the images that have a score, float64 [classes]; or NaN."""
        return np.array([mean_of_numbers(scores) for scores in self.scores.T])

    @property
    def ignored_share(self) -> float:
        """Share of the outlines in the labels that lie next to ignored pixels and do not count."""
        return self._unknown / max(self._known + self._unknown, 1)


def f_scores(
    label: np.ndarray,
    prediction: np.ndarray,
    *,
    num_classes: int,
    ignore_label: int | None,
    tolerance: float,
) -> np.ndarray:
    """Returns the boundary F-score of each class in one image, float64 [num_classes].

    Args:
      label, prediction: class numbers, [H, W].
      ignore_label: pixels with this label do not count; None if all pixels count.
      tolerance: share of the image's diagonal.
    Returns:
      Scores in 0..1; NaN for a class that is in neither map, or without boundary in the label.
    """
    valid = np.ones(label.shape, bool) if ignore_label is None else label != ignore_label
    radius = math.ceil(tolerance * math.hypot(*label.shape))
    edges = [_Edges(classes, valid) for classes in (label, prediction)]

    scores = np.full(num_classes, np.nan)
    labelled, predicted = set(label[valid].tolist()), set(prediction[valid].tolist())
    for index in labelled | predicted:
        of_label, of_prediction = (side.of_class(index) for side in edges)
        if len(of_label) and len(of_prediction):
            precision = _share_near(of_prediction, of_label, radius)
            recall = _share_near(of_label, of_prediction, radius)
            total = precision + recall
            scores[index] = 2 * precision * recall / total if total else 0.0
        elif len(of_label) or index not in labelled:
            scores[index] = 0.0
    return scores


class _Edges:
    """The pairs of unequal valid neighbours in a map: the first one's place, and both classes."""

    def __init__(self, classes: np.ndarray, valid: np.ndarray):
        places, pairs = [], []
        for down, right in ((0, 1), (1, 0), (1, 1)):
            height, width = classes.shape[0] - down, classes.shape[1] - right
            first = np.s_[:height, :width]
            second = np.s_[down : down + height, right : right + width]
            differs = (classes[first] != classes[second]) & valid[first] & valid[second]
            at = np.nonzero(differs)
            places.append(np.stack(at, axis=1))
            pairs.append(np.stack([classes[first][at], classes[second][at]], axis=1))
        self._places, self._pairs = np.concatenate(places), np.concatenate(pairs)
        self._width = classes.shape[1]

    def of_class(self, index: int) -> np.ndarray:
        """Returns the boundary pixels of a class, int [N, 2], each once."""
        places = self._places[(self._pairs == index).any(axis=1)]
        numbers = np.unique(places[:, 0] * self._width + places[:, 1])
        return np.stack(np.divmod(numbers, self._width), axis=1)


def _share_near(points: np.ndarray, others: np.ndarray, radius: int) -> float:
    """Returns the share of the points that have one of the others at most `radius` pixels away."""
    # The tree's own limit is compared with rounded roots, so it is wider, and squares of whole
    # numbers decide.
    _, nearest = cKDTree(others).query(points, distance_upper_bound=radius + 0.5)
    found = nearest < len(others)
    offsets = points[found] - others[nearest[found]]
    near = (offsets**2).sum(axis=1) <= radius**2
    return float(np.count_nonzero(near) / len(points))
