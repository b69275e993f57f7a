"""A queue in the browser: the next case, what a rater says of it, and taking it back."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from vitrail.errors import VitrailError
from vitrail.review.agreement import raters_summary
from vitrail.review.judgements import SKIP, Judgement, Judgements, check_rater
from vitrail.review.queue import ANSWERS, queues_of, read_queue
from vitrail.viewer.asking import map_json
from vitrail.viewer.pyramid import slide_sizes
from vitrail.viewer.session import id_of

if TYPE_CHECKING:
    from vitrail.viewer.session import Session


class Reviews:
    """The queues of a run.

    Parameters
    ----------
    session
        Of the run.
    """

    def __init__(self, session: Session) -> None:
        self.session = session
        folders = [] if session.run is None else queues_of(session.run)
        self._queues = {folder.name: Judgements(read_queue(folder)) for folder in folders}

    def queue(self, name: str) -> Judgements:
        """Return the judgements of a queue.

        Raises
        ------
        LookupError
            There is no such queue.
        """
        return self._queues[name]

    def describe(self) -> list[dict[str, Any]]:
        """List the queues as JSON: name, what they were asked to be, cases, and how far each rater is."""
        result = []
        for name, judgements in self._queues.items():
            done: dict[str, set[int]] = {}
            for each in judgements.read():
                if each.answer != SKIP:
                    done.setdefault(each.rater, set()).add(each.case)
            raters = {rater: len(cases) for rater, cases in done.items()}
            spec = judgements.queue.spec
            facts = {"name": name, "cases": len(judgements.queue), "raters": raters, "answers": ANSWERS[spec.question]}
            result.append(asdict(spec) | facts)
        return result

    def next_case(self, name: str, rater: str) -> dict[str, Any]:
        """Return what a rater is to judge next, and nothing of what the networks say.

        Parameters
        ----------
        name, rater
            Of the queue, and who.

        Returns
        -------
        dict[str, Any]
            JSON: `case`, null at the end; `slide` with the sizes of its `levels` and `mpp`, or a `problem` that keeps
            it shut; `tile`; of a question about explanations the `map`; and how far the rater is: `judged` of
            `cases`, the median `seconds`.

        Raises
        ------
        LookupError
            There is no such queue.
        ValueError
            The rater has no name.
        """
        judgements = self.queue(name)
        return self.case(name, judgements.next_case(check_rater(rater))) | self._progress(judgements, rater)

    def case(self, name: str, number: int | None) -> dict[str, Any]:
        """Return a case as JSON; see `next_case`."""
        if number is None:
            return {"case": None}
        queue = self.queue(name).queue
        row = queue.rows.iloc[number]
        shown: dict[str, Any] = {
            "case": int(number),
            "slide": id_of(row["slide_id"]),
            "tile": {"x": float(row["x"]), "y": float(row["y"]), "side": float(row["side"])},
        }
        try:
            opened = self.session.slide(shown["slide"]).open()
            shown |= {"levels": slide_sizes(opened), "mpp": opened.mpp}
        except (VitrailError, OSError) as error:
            shown["problem"] = str(error)  # the rater can skip it
        stored = self.session.stored
        if queue.spec.question == "explanation" and stored is not None:
            (position,) = np.flatnonzero((stored.rows["tile"] == row["row"]).to_numpy())
            shown["map"] = map_json(stored.saliency(f"{queue.spec.network}_{queue.spec.method}", int(position)))
        return shown

    def judge(self, name: str, values: dict[str, Any]) -> dict[str, Any]:
        """Write down what a rater says; only then return what the networks say.

        Parameters
        ----------
        name
            Of the queue.
        values
            Of a `Judgement`.

        Returns
        -------
        dict[str, Any]
            JSON: the scores of both networks; none of a skipped case, which will be asked about again. Whoever has
            answered a case before has seen them, whether or not that was taken back.

        Raises
        ------
        LookupError
            There is no such queue.
        ValueError
            It is no judgement.
        """
        judgements = self.queue(name)
        kinds = {"case": int, "rater": str, "answer": str, "seconds": float, "shown": bool, "comment": str}
        if not {"case", "rater", "answer", "seconds"} <= set(values) <= set(kinds):
            raise ValueError(f"a judgement has {', '.join(kinds)}")
        for key, value in values.items():
            wanted = (int, float) if kinds[key] is float else kinds[key]
            if not isinstance(value, wanted) or (isinstance(value, bool) and kinds[key] is not bool):
                raise ValueError(f"{key} is no {kinds[key].__name__}")
        judgement = Judgement(**values)
        if judgements.answered(judgement.case, judgement.rater):
            judgement = replace(judgement, shown=True)
        written = judgements.add(judgement)
        said: dict[str, Any] = {"case": written.case, "answer": written.answer, "shown": written.shown}
        if written.answer != SKIP:
            row = judgements.queue.rows.iloc[written.case]
            said["networks"] = {network: float(row[network]) for network in ("classifier", "segmenter")}
        return said

    def undo(self, name: str, rater: str) -> dict[str, Any]:
        """Take back what a rater said last, and return that case as `next_case` does; null where nothing is left.

        Raises
        ------
        LookupError
            There is no such queue.
        ValueError
            The rater has no name.
        """
        judgements = self.queue(name)
        back = judgements.undo(rater)
        return self.case(name, None if back is None else back.case) | self._progress(judgements, rater)

    def results(self, name: str) -> dict[str, Any]:
        """Return `raters_summary` of a queue.

        Raises
        ------
        LookupError
            There is no such queue.
        """
        settings = self.session.settings
        return raters_summary(self.queue(name), settings.evaluation.threshold, settings.seed)

    @staticmethod
    def _progress(judgements: Judgements, rater: str) -> dict[str, Any]:
        own = [each for each in judgements.read() if each.rater == rater and each.answer != SKIP]
        blind = [each.seconds for each in own if not each.shown]
        seconds = float(np.median(blind)) if blind else None
        return {"judged": len({each.case for each in own}), "cases": len(judgements.queue), "seconds": seconds}
