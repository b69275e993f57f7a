"""How well objects were outlined one by one: Dice, AJI, panoptic quality, F1.

All of them come from one table of overlaps: how many pixels each true object shares with each one that was segmented.
Dice (1945, doi:10.2307/1932409) looks at pixels alone. The aggregated Jaccard index (Kumar et al. 2017,
doi:10.1109/TMI.2017.2677499) punishes whatever is merged, split or missed by its area. F1 counts objects whose
intersection over union is larger than a threshold of at least one half, which makes every match the only one possible,
and panoptic quality (Kirillov et al. 2019, arXiv:1801.00868) is that F1 times the mean intersection over union of the
matched.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from vitrail.metrics.scores import divided

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    Integers = NDArray[np.int64]

MATCHED_IOU = 0.5
"""Of Kirillov et al.: above it no object has two matches."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Overlaps:
    """Which true objects share pixels with which segmented ones, and how many.

    Attributes
    ----------
    truth, labels
        `[pairs]`, the objects of each pair that shares pixels, by their numbers from 0.
    shared_px
        `[pairs]`, pixels that a pair shares.
    truth_px, labels_px
        `[objects]`, pixels of each object.
    """

    truth: Integers
    labels: Integers
    shared_px: Integers
    truth_px: Integers
    labels_px: Integers

    @property
    def iou(self) -> NDArray[np.float64]:
        """Intersection over union of each pair, `[pairs]`."""
        return self.shared_px / (self.truth_px[self.truth] + self.labels_px[self.labels] - self.shared_px)

    @property
    def dice(self) -> float:
        """Twice the pixels in both, divided by the pixels in either mask; NaN where both are empty."""
        return _share(2 * self.shared_px.sum(), self.truth_px.sum() + self.labels_px.sum())

    @property
    def aji(self) -> float:
        """Aggregated Jaccard index: each true object counts with the one it overlaps best; NaN where both are empty."""
        iou = self.iou
        order = np.lexsort((-iou, self.truth))  # the best of each true object comes first
        matched, first = np.unique(self.truth[order], return_index=True)
        best = order[first]
        both = self.shared_px[best].sum()
        unmatched_px = np.delete(self.truth_px, matched).sum() + np.delete(self.labels_px, self.labels[best]).sum()
        either = self.truth_px[matched].sum() + self.labels_px[self.labels[best]].sum() - both
        return _share(both, either + unmatched_px)

    def f1(self, iou: float = MATCHED_IOU) -> float:
        """Count objects whose intersection over union is above a threshold, as F1.

        Parameters
        ----------
        iou
            At least 0.5, so that no object has two matches.

        Returns
        -------
        float
            NaN where neither has objects.

        Raises
        ------
        ValueError
            The threshold is less than 0.5, or not less than 1.
        """
        if not MATCHED_IOU <= iou < 1:
            raise ValueError(f"objects match above an IoU from 0.5 to 1, not {iou}")
        return _share(2 * np.count_nonzero(self.iou > iou), len(self.truth_px) + len(self.labels_px))

    @property
    def precision(self) -> float:
        """Share of the segmented objects that match a true one; NaN where there are none."""
        return _share(np.count_nonzero(self.iou > MATCHED_IOU), len(self.labels_px))

    @property
    def recall(self) -> float:
        """Share of the true objects that match a segmented one; NaN where there are none."""
        return _share(np.count_nonzero(self.iou > MATCHED_IOU), len(self.truth_px))

    @property
    def pq(self) -> float:
        """Panoptic quality: summed IoU of the matched, divided by the mean number of objects; NaN without objects."""
        iou = self.iou
        return _share(2 * iou[iou > MATCHED_IOU].sum(), len(self.truth_px) + len(self.labels_px))


def overlaps(truth: ArrayLike, labels: ArrayLike) -> Overlaps:
    """Count the pixels that each true object shares with each segmented one.

    Parameters
    ----------
    truth
        `[h, w]`, whole numbers: 0 none, any other number an object.
    labels
        The same of what was segmented.

    Returns
    -------
    Overlaps
        From which all scores come.

    Raises
    ------
    ValueError
        The two differ in shape.
    """
    first, second = np.asarray(truth), np.asarray(labels)
    if first.shape != second.shape:
        raise ValueError(f"truth {first.shape} and labels {second.shape} differ in shape")
    truth_ids, of_truth = np.unique(first, return_inverse=True)
    label_ids, of_label = np.unique(second, return_inverse=True)
    pairs, shared_px = np.unique(of_truth.ravel() * len(label_ids) + of_label.ravel(), return_counts=True)
    rows, columns = np.divmod(pairs, max(1, len(label_ids)))
    truth_px = np.bincount(rows, shared_px, minlength=len(truth_ids)).astype(np.int64)
    labels_px = np.bincount(columns, shared_px, minlength=len(label_ids)).astype(np.int64)
    objects = (truth_ids[rows] != 0) & (label_ids[columns] != 0)
    return Overlaps(  # the rank of an object among the numbers that are not 0 is its number here
        truth=(np.cumsum(truth_ids != 0) - 1)[rows[objects]],
        labels=(np.cumsum(label_ids != 0) - 1)[columns[objects]],
        shared_px=shared_px[objects],
        truth_px=truth_px[truth_ids != 0],
        labels_px=labels_px[label_ids != 0],
    )


def _share(part: float, whole: float) -> float:
    return float(divided(part, whole))
