from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vitrail.explain.nuclei.painting import coverage, move_shapes, paint
from vitrail.explain.nuclei.removal import ALL, MOST, effects_of, feature_groups, removal_effects

GROUND, NUCLEUS = np.array([210, 140, 180], np.uint8), np.array([80, 50, 120], np.uint8)


def field(side=120, step=20, radius=4):
    """Equal discs on plain ground, in a grid."""
    rows, columns = np.indices((side, side))
    labels = np.zeros((side, side), np.int32)
    for number, (row, column) in enumerate(np.ndindex(side // step, side // step), 1):
        labels[np.hypot(rows - step * row - step / 2, columns - step * column - step / 2) <= radius] = number
    return np.where((labels > 0)[..., None], NUCLEUS, GROUND).astype(np.uint8), labels


def planted(labels, weights):
    """A network that sees, of each nucleus, how much darker than the ground its place is."""
    own = np.append(0, weights)[labels] / np.maximum(np.bincount(labels.ravel())[labels], 1)

    def score(images):
        dark = (GROUND.astype(float) - images).mean(3) / (GROUND.astype(float) - NUCLEUS).mean()
        logits = (dark * own).sum((1, 2))
        return np.column_stack([1 / (1 + np.exp(-logits)), logits])

    return score


def test_planted_weights_come_back_exactly():
    image, labels = field()
    weights = np.random.default_rng(0).normal(0, 1, labels.max())
    dark = np.arange(labels.max()) < 5
    result = removal_effects(planted(labels, weights), image, labels, {"dark": dark})
    assert result.passes <= MOST
    assert result.before[1] == pytest.approx(weights.sum())
    assert list(result.nuclei["label"]) == list(range(1, labels.max() + 1))
    assert result.nuclei["effect_logit"].to_numpy() == pytest.approx(weights)
    assert set(result.nuclei["sampled"]) == {"all"}
    everything, group = result.groups.to_dict("records")
    assert (everything["group"], group["group"]) == (ALL, "dark")
    assert everything["effect_logit"] == pytest.approx(weights.sum())
    assert group["effect_logit"] == pytest.approx(weights[:5].sum())
    assert everything["effect"] == pytest.approx(result.before[0] - 0.5)
    # plain ground painted over is plain ground: the control does nothing
    assert everything["control_area_um2"] > 0
    assert everything["control_logit"] == group["control_logit"] == 0
    assert result.controls["effect_logit"].eq(0).all()
    assert len(result.controls)
    assert np.isnan(everything["random_logit"])
    assert group["random_nuclei"] == 5
    assert group["random_area_um2"] == pytest.approx(group["area_um2"], rel=0.1)


def test_a_network_that_sees_painting_moves_for_the_control_as_well():
    image, labels = field()
    image = image + np.random.default_rng(0).integers(0, 9, (*labels.shape, 1)).astype(np.uint8)

    def score(images):  # counts what was changed, whatever it was
        changed = (images != image).any(3).mean((1, 2))
        return np.column_stack([changed, changed])

    row = removal_effects(score, image, labels, {}).groups.iloc[0]
    assert row["effect"] < 0
    assert row["control"] / row["control_area_um2"] == pytest.approx(row["effect"] / row["area_um2"], rel=0.2)


def test_of_many_nuclei_the_most_relevant_and_random_ones_stand_for_all():
    image, labels = field()
    count = labels.max()
    weights, relevance = np.ones(count), np.arange(count, dtype=float)
    painting = paint(image, labels)
    result = effects_of(planted(labels, weights), painting, {}, relevance=relevance, most=24)
    assert result.passes <= 24
    nuclei = result.nuclei.set_index("label")
    top = nuclei.index[nuclei["sampled"] == "relevance"]
    assert set(top) == set(range(count - len(top) + 1, count + 1))
    assert set(nuclei["sampled"]) == {"relevance", "random"}
    assert nuclei["weight"].sum() == pytest.approx(count)
    assert (nuclei["weight"] * nuclei["effect_logit"]).sum() == pytest.approx(count)
    alone = effects_of(planted(labels, weights), painting, {}, most=24).nuclei
    assert set(alone["sampled"]) == {"random"}


def test_random_groups_match_the_area_of_a_group_that_none_other_has_with_its_number():
    image, labels = field()
    rows, columns = np.indices(labels.shape)
    big = labels.copy()
    for number in (8, 22):
        at = np.argwhere(labels == number).mean(0)
        big[np.hypot(rows - at[0], columns - at[1]) <= 8] = number
    row = removal_effects(planted(big, np.ones(36)), image, big, {"largest": np.isin(np.arange(36), [7, 21])}).groups
    largest = row.set_index("group").loc["largest"]
    assert largest["random_nuclei"] > largest["nuclei"]
    assert largest["random_area_um2"] == pytest.approx(largest["area_um2"], rel=0.1)


def test_what_does_not_fit_is_an_error():
    image, labels = field()
    score = planted(labels, np.ones(36))
    with pytest.raises(ValueError, match=r"\(119, 120\)"):
        paint(image[1:], labels)
    with pytest.raises(ValueError, match="36 nuclei has others in wrong"):
        removal_effects(score, image, labels, {"wrong": np.ones(5, bool)})
    with pytest.raises(ValueError, match="20 passes are too few for 2 groups: they take 23"):
        effects_of(score, paint(image, labels), dict.fromkeys("ab", np.arange(36) < 3), most=20)


def test_a_tile_without_nuclei_has_no_effects():
    image, labels = field()
    result = removal_effects(planted(labels, np.ones(36)), image, np.zeros_like(labels), {})
    assert result.passes == 1
    assert not len(result.nuclei) + len(result.groups) + len(result.controls)


@settings(deadline=None, max_examples=6)
@given(st.integers(0, 2**32 - 1), st.integers(8, 40), st.integers(8, 40))
def test_a_coarse_tile_changes_where_its_nuclei_lie_and_by_what_the_fine_pixels_do(seed, rows, columns):
    rng = np.random.default_rng(seed)
    image, labels = field(60, 20, 5)
    tile = rng.integers(100, 156, (rows, columns, 3), dtype=np.uint8)
    painting = paint(image, labels, tile=tile, seed=(seed,))
    chosen, moved = rng.random(9) < 0.4, bool(rng.integers(2))
    after = painting.without(chosen, moved=moved)
    own, change = (painting.moved, painting.moved_change) if moved else (painting.labels, painting.change)
    inside = np.append(False, chosen)[own]
    down, right = coverage(rows, 60), coverage(columns, 60)
    reached = down @ inside @ right.T > 1e-6
    assert np.array_equal(after[~reached], tile[~reached])
    added = np.einsum("ah,hwc,bw->abc", down, change * inside[..., None], right)
    assert np.abs(after - np.clip(tile + added, 0, 255)).max() <= 0.51
    both = painting.without(chosen | ~chosen, moved=moved).astype(int) - tile
    apart = sum(painting.without(each, moved=moved).astype(int) - tile for each in (chosen, ~chosen))
    assert np.abs(both - apart).max() <= 1  # nothing but rounding: nuclei do not share what they change
    assert painting.without(np.zeros(9, bool)).tobytes() == tile.tobytes()


def test_a_pixel_is_the_mean_of_what_it_covers():
    assert coverage(2, 3) == pytest.approx(np.array([[2, 1, 0], [0, 1, 2]]) / 3)
    assert coverage(7, 31).sum(1) == pytest.approx(np.ones(7))


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 2**32 - 1), st.floats(0, 1))
def test_moved_shapes_lie_on_free_places_only(seed, share):
    rng = np.random.default_rng(seed)
    _, labels = field(80, 20, 6)
    free = (labels == 0) & (rng.random(labels.shape) < share)
    moved = move_shapes(labels, free, rng)
    assert not moved[~free].any()
    assert (moved > 0).sum() <= free.sum() / 2
    sizes, own = (np.bincount(each.ravel(), minlength=17)[1:] for each in (moved, labels))
    assert (sizes <= own).all()


def test_groups_by_feature():
    count = 40
    features = pd.DataFrame({
        "area_um2": np.linspace(30, 200, count),
        "hematoxylin_mean": np.linspace(1, 0, count),
        "solidity": np.r_[np.full(36, 0.95), 0.5, 0.6, 0.7, 0.4],
        "circularity": np.full(count, 0.9),
    })  # fmt: skip
    groups = {name: np.flatnonzero(mask).tolist() for name, mask in feature_groups(features).items()}
    assert groups == {
        "darkest": [0, 1, 2, 3], "largest": [36, 37, 38, 39], "irregular": [36, 37, 38, 39],
        "lymphocytes": [0, 1, 2, 3, 4],
    }  # fmt: skip
    assert feature_groups(features[:0]) == {}
    assert set(feature_groups(features[20:29])) == set()
