from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import recall_score

from vitrail.metrics.thresholds import for_sensitivity, youden

cases = st.lists(st.tuples(st.booleans(), st.integers(0, 8)), min_size=2, max_size=40)


def rates(truth, score, threshold):
    called = score >= threshold
    return recall_score(truth, called), recall_score(~truth, ~called)


@settings(max_examples=20, deadline=None)
@given(cases)
def test_no_other_threshold_is_better(case):
    truth, score = (np.array(values) for values in zip((True, 3), (False, 5), *case, strict=True))
    chosen = youden(truth, score / 8)
    gains = {other: sum(rates(truth, score / 8, other)) for other in np.unique(score / 8)}
    assert gains[chosen] >= max(gains.values()) - 1e-12


@settings(max_examples=20, deadline=None)
@given(cases, st.floats(0.01, 1))
def test_it_is_the_highest_threshold_with_the_wished_sensitivity(case, wished):
    truth, score = (np.array(values) for values in zip((True, 3), (False, 5), *case, strict=True))
    chosen = for_sensitivity(truth, score / 8, wished)
    reached = [other for other in np.unique(score / 8) if rates(truth, score / 8, other)[0] >= wished - 1e-12]
    assert chosen == max(reached)


def test_worked_examples():
    truth, score = [0, 0, 1, 0, 1, 1, 1], [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7]
    assert youden(truth, score) == 0.5
    assert for_sensitivity(truth, score, 0.75) == 0.5
    assert for_sensitivity(truth, score, 0.76) == 0.3


def test_without_a_class_there_is_no_threshold():
    assert np.isnan([youden([], []), youden([1, 1], [0.2, 0.3]), for_sensitivity([0, 0], [0.2, 0.3], 0.9)]).all()
    assert for_sensitivity([1, 1], [0.2, 0.3], 0.5) == 0.3
