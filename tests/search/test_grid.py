"""What a search consists of: who goes on, and what names a cell."""

from __future__ import annotations

from vitrail.search.grid import Grid, survivors
from vitrail.settings.load import preset


def test_survivors_are_the_best_share_rounded_up():
    accuracy = {(99.6, 64): 0.5, (99.6, 96): 0.7, (199.1, 64): 0.7, (199.1, 96): 0.9, (199.1, 128): 0.1}
    assert survivors(accuracy, 0.5) == ((99.6, 96), (199.1, 64), (199.1, 96))
    assert survivors(accuracy, 0.4) == ((199.1, 64), (199.1, 96))
    assert survivors(accuracy, 0.01) == ((199.1, 96),)
    assert survivors(accuracy, 1.0) == tuple(sorted(accuracy))


def test_the_digest_leaves_out_what_does_not_matter():
    grid = Grid(settings=preset("quick"), entries=())
    (cell, *_) = grid.cells([(199.1, 64)], [0])
    for change in ({"tiles": grid.settings.tiles.model_copy(update={"side_px": 128})}, {"seed": 1}):
        other = Grid(settings=grid.settings.model_copy(update=change), entries=())
        assert (other.cells([(199.1, 64)], [0])[0].digest == cell.digest) == ("tiles" in change)
    digests = {one.digest for one in grid.cells(grid.pairs, range(3))}
    assert len(digests) == 2 * 2 * 3 * 3
