"""How many labels are wrong, and which: confident learning (Northcutt et al. 2021, doi:10.1613/jair.1.12125).

A network that has not seen an element says how probable each class is. The mean probability of a class among the
elements that are labelled with it is the threshold from which the network is confident of that class. Elements of
which the network is confident are counted by label and by the class that it is confident of; scaled to as many as have
each label, these counts estimate the joint distribution of label and truth. The share off the diagonal is the noise
rate. Whatever the network confidently gets wrong counts as noise, too, so that good labels have a rate as well, the
higher the poorer the network: `noise_by_errors` says about how high. Labels that are wrong where a network is unsure,
as at the borders of outlines, are found less. `python -m bench.label_noise` measures both; only of networks that make
hardly an error is the estimate close to the truth.

Here are two classes, positive and not, and every estimate is a function of sums over patients; the thresholds are those
of the whole cohort.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.special import expit, logit, ndtri

from vitrail.metrics.bootstrap import Drawn, by_patient
from vitrail.metrics.scores import divided

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    Floats = NDArray[np.float64]
    Flags = NDArray[np.bool_]

_POINTS = 10_000  # of the distributions of scores


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class NoiseParts:
    """What each patient adds to the estimated joint distribution of label and truth.

    Attributes
    ----------
    labelled
        `[patients, 2]`: elements by label, positive first.
    joint
        `[patients, 2, 2]`: those of which the network is confident, by label and by what it is confident of.
    """

    labelled: Floats
    joint: Floats

    def rates(self, weights: Floats) -> dict[str, Drawn]:
        """Return shares of labels that are wrong.

        Parameters
        ----------
        weights
            `[rows, patients]`, see `vitrail.metrics.bootstrap`.

        Returns
        -------
        dict[str, Drawn]
            `noise` of all labels, `positive` of those that say positive, `negative` of the others; NaN where the
            network is confident of no element with a label.
        """
        labelled, joint = weights @ self.labelled, np.einsum("rp,pij->rij", weights, self.joint)
        total = labelled.sum(1)
        value, influence = np.zeros(len(weights)), np.zeros(weights.shape)
        drawn = {}
        for label, name in enumerate(("positive", "negative")):
            confident, wrong = joint[:, label].sum(1), joint[:, label, 1 - label]
            rate = divided(wrong, confident)
            own = self.joint[:, label, 1 - label] - rate[:, None] * self.joint[:, label].sum(1)
            by_rate = divided(own, confident[:, None])
            drawn[name] = Drawn(value=rate, influence=by_rate, scale="share")
            share = divided(labelled[:, label], total)
            by_share = divided(self.labelled[:, label] - share[:, None] * self.labelled.sum(1), total[:, None])
            value = value + share * rate
            influence = influence + rate[:, None] * by_share + share[:, None] * by_rate
        return {"noise": Drawn(value=value, influence=influence, scale="share")} | drawn

    @property
    def distribution(self) -> Floats:
        """The joint distribution, `[2, 2]`, rows = label, positive first; NaN where it cannot be told."""
        labelled, joint = self.labelled.sum(0), self.joint.sum(0)
        return np.asarray(divided(joint, joint.sum(1, keepdims=True)) * divided(labelled, labelled.sum())[:, None])


def confident_thresholds(positive: ArrayLike, probability: ArrayLike) -> tuple[float, float]:
    """Return from which probability on a network is confident of each class.

    Parameters
    ----------
    positive
        `[n]`, true where the label says so.
    probability
        `[n]`, of the positive class.

    Returns
    -------
    tuple[float, float]
        Of the positive class, and of the other one in its own probability; NaN where no element has the label.
    """
    labels, values = np.asarray(positive).astype(bool), np.asarray(probability, np.float64)
    return tuple(  # type: ignore[return-value]
        float(divided(own.sum(), float(len(own)))) for own in (values[labels], 1 - values[~labels])
    )


def confident_of(positive: ArrayLike, probability: ArrayLike) -> tuple[Flags, Flags]:
    """Return of which class a network is confident.

    Parameters
    ----------
    positive, probability
        As of `confident_thresholds`.

    Returns
    -------
    tuple[NDArray[np.bool_], NDArray[np.bool_]]
        `[n]`, of the positive class, and of the other one; of the likelier one where both thresholds are reached.
    """
    values = np.asarray(probability, np.float64)
    upper, lower = confident_thresholds(positive, values)
    above, below = values >= upper, 1 - values >= lower
    both = above & below
    return above & ~(both & (values < 0.5)), below & ~(both & (values >= 0.5))


def noise_parts(positive: ArrayLike, probability: ArrayLike, patients: ArrayLike) -> NoiseParts:
    """Sum up by patient what the estimated noise is made of.

    Parameters
    ----------
    positive
        `[n]`, true where the label says so.
    probability
        `[n]`, of the positive class, by a network that has not seen the element.
    patients
        `[n]`, whose element it is.

    Returns
    -------
    NoiseParts
        The sums.

    Raises
    ------
    ValueError
        The three are not vectors of one length, or a probability is not between 0 and 1.
    """
    labels, values, owners = (
        np.asarray(positive).astype(bool),
        np.asarray(probability, np.float64),
        np.asarray(patients),
    )
    if not labels.shape == values.shape == owners.shape or values.ndim != 1:
        raise ValueError(f"labels {labels.shape}, probability {values.shape}, patients {owners.shape} must be alike")
    if not ((values >= 0) & (values <= 1)).all():
        raise ValueError("a probability is not between 0 and 1")
    by_label = np.stack([labels, ~labels], axis=1)
    confident = np.stack(confident_of(labels, values), axis=1)
    joint = by_label[:, :, None] & confident[:, None, :]
    return NoiseParts(labelled=by_patient(owners, by_label), joint=by_patient(owners, joint))


def noise_by_errors(area: float, positives: float) -> float:
    """Return the noise rate that is estimated where all labels are true, and all contradictions a network's errors.

    The scores of both classes are taken for normal with equal variance, and the probabilities for calibrated.

    Parameters
    ----------
    area
        The network's area under the ROC curve against the labels. Wrong labels lower it, and so raise what is returned.
    positives
        The share of positive elements.

    Returns
    -------
    float
        NaN where there is no such area, or one class alone.
    """
    if not (0.5 < area < 1 and 0 < positives < 1):
        return 0.0 if area == 1 and 0 < positives < 1 else float("nan")
    labels = np.arange(_POINTS) < max(min(round(positives * _POINTS), _POINTS - 1), 1)
    gap = float(np.sqrt(2) * ndtri(area))
    scores = np.concatenate(
        [
            ndtri((np.arange(count) + 0.5) / count) + sign * gap / 2
            for count, sign in ((labels.sum(), 1), ((~labels).sum(), -1))
        ]
    )
    parts = noise_parts(labels, expit(gap * scores + logit(labels.mean())), np.zeros(_POINTS))
    return float(parts.rates(np.ones((1, 1)))["noise"])


def contradicted(positive: ArrayLike, probabilities: ArrayLike) -> Floats:
    """Say how strongly all networks contradict a label.

    Parameters
    ----------
    positive
        `[n]`, true where the label says so.
    probabilities
        `[n, networks]`, of the positive class.

    Returns
    -------
    NDArray[np.float64]
        `[n]`: the probability of the other class by the network that gives it least, where every network is confident
        of the other class and finds it likelier than not; NaN elsewhere.
    """
    labels, values = np.asarray(positive).astype(bool), np.asarray(probabilities, np.float64)
    against = np.where(labels[:, None], 1 - values, values).min(1, initial=1.0)
    every = np.ones(len(labels), np.bool_)
    for column in values.T:
        above, below = confident_of(labels, column)
        every &= np.where(labels, below, above)
    return np.where(every & (against > 0.5), against, np.nan)
