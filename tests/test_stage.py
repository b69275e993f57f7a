"""The stage rule: what is up to date stays, what is not is made anew, a crash leaves nothing that looks done."""

from __future__ import annotations

import json
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from vitrail.core.progress import Silent
from vitrail.distribute.claims import Claims
from vitrail.distribute.jobs import Here, Jobs
from vitrail.errors import RunError
from vitrail.settings.load import preset, settings_text
from vitrail.stage import Stage, bring_up_to_date, chain, open_run


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "study.toml").write_text(settings_text(preset("quick"), "A title"))
    return tmp_path


def stages(log, crash=None):
    def maker(name):
        def make(work):
            log.append(name)
            step = work.folder / "first.txt"
            if not step.exists():
                step.write_text(name)
                if name == crash:
                    raise KeyboardInterrupt
            else:
                log.append(f"{name} resumed")
            (work.folder / "second.txt").write_text("done")

        return make

    def stage(name, settings, *needs):
        return Stage(
            name=name, folder=name, version=1, settings=settings, needs=needs, inputs=lambda _: None, make=maker(name)
        )

    return (
        stage("a", ("tiles",)),
        stage("b", ("split",), "a"),
        stage("c", ("encoder",), "a"),
        stage("d", (), "b", "c"),
    )


def bring(folder, log, until="d", crash=None):
    all_stages = stages(log, crash)
    return bring_up_to_date(chain(all_stages, until), open_run(folder), Silent())


def change(folder, old, new):
    path = folder / "study.toml"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def test_everything_is_made_once(folder):
    log = []
    assert bring(folder, log) == ["a", "b", "c", "d"]
    assert bring(folder, log) == []
    assert log == ["a", "b", "c", "d"]


def test_until_makes_only_what_is_needed(folder):
    assert bring(folder, [], until="c") == ["a", "c"]
    assert bring(folder, [], until="d") == ["b", "d"]


@pytest.mark.parametrize(
    ("old", "new", "redone"),
    [
        ("side_px = 96", "side_px = 64", ["a", "b", "c", "d"]),
        ("validation = 10", "validation = 11", ["b", "d"]),
        ('weights = "embedded"', 'weights = "random"', ["c", "d"]),
        ("workers = 0", "workers = 1", []),
        ("seed = 0", "seed = 1", ["a", "b", "c", "d"]),
    ],
)
def test_a_change_redoes_exactly_what_depends_on_it(folder, old, new, redone):
    bring(folder, [])
    change(folder, old, new)
    assert bring(folder, []) == redone
    change(folder, new, old)
    assert bring(folder, []) == redone


def test_a_branch_of_later_settings_counts_once_it_says_something(folder):
    """So stages may read branches that there were not when a run was made."""
    before, after = (stages([])[:1], [replace(stages([])[0], settings=("tiles", "ensemble"))])
    bring_up_to_date(before, open_run(folder), Silent())
    assert bring_up_to_date(after, open_run(folder), Silent()) == []
    change(folder, "folds = 0", "folds = 3")
    assert bring_up_to_date(before, open_run(folder), Silent()) == []
    assert bring_up_to_date(after, open_run(folder), Silent()) == ["a"]


def test_a_crash_leaves_nothing_that_looks_done_and_is_continued(folder):
    log = []
    with pytest.raises(KeyboardInterrupt):
        bring(folder, log, crash="b")
    assert not (folder / "b").exists()
    assert bring(folder, log) == ["b", "c", "d"]
    assert log == ["a", "b", "b", "b resumed", "c", "d"]
    assert not (folder / ".partial").exists()


def test_what_was_begun_for_other_settings_is_not_continued(folder):
    log = []
    with pytest.raises(KeyboardInterrupt):
        bring(folder, log, crash="b")
    change(folder, "validation = 10", "validation = 11")
    bring(folder, log)
    assert "b resumed" not in log
    assert not (folder / ".partial").exists()


def test_a_kill_between_two_renames_loses_nothing(folder):
    log = []
    bring(folder, log)
    (folder / ".partial").mkdir()
    digest = json.loads((folder / "b" / "stage.json").read_text())["digest"]
    (folder / "b").rename(folder / ".partial" / f"b-{digest[:16]}")
    assert bring(folder, log) == ["b"]
    assert log == ["a", "b", "c", "d"]
    assert (folder / "b" / "second.txt").exists()


def test_files_of_an_earlier_making_do_not_stay(folder):
    bring(folder, [])
    (folder / "a" / "stale.txt").write_text("old")
    change(folder, "side_px = 96", "side_px = 64")
    bring(folder, [])
    assert not (folder / "a" / "stale.txt").exists()


@pytest.mark.parametrize("content", [b"{", b"\xff\xfe", b"[1]", b"", b"[" * 100_000])
def test_a_broken_record_is_made_anew(folder, content):
    bring(folder, [])
    (folder / "d" / "stage.json").write_bytes(content)
    assert bring(folder, []) == ["d"]


def test_a_folder_that_is_no_run_is_refused(tmp_path):
    with pytest.raises(RunError, match="not a run folder"):
        open_run(tmp_path)


def shared_stages(log, parts=6, slow=0.0):
    """A stage whose parts several commands do together, and one that the first of them makes."""

    def jobs_of(work):
        def write(number, _progress):
            log.append(number)
            time.sleep(slow)
            (work.folder / f"{number}.txt").write_text(str(number))

        return Jobs(
            title="parts",
            work=write,
            jobs={str(number): number for number in range(parts)},
            is_done=lambda number: (work.folder / f"{number}.txt").is_file(),
        )

    def share(work):
        assert [error for _name, error in work.executor.run(jobs_of(work)) if error] == []

    def make(work):
        assert jobs_of(work).unfinished() == []
        log.append("joined")

    def make_alone(work):
        log.append("alone")
        time.sleep(slow)
        (work.folder / "all.txt").write_text("")

    first = Stage(name="a", folder="a", version=1, settings=(), needs=(), inputs=lambda _: None, make=make, share=share)
    return first, replace(first, name="b", folder="b", needs=("a",), make=make_alone, share=None)


def test_commands_do_the_parts_of_a_stage_together_and_one_joins_them(folder):
    log, made = [], []

    def one(part):
        with Claims(folder, (part, 3)) as claims:
            time.sleep(0.1 * (part == 3))  # one comes late
            made.extend(bring_up_to_date(shared_stages(log, slow=0.05), open_run(folder), Silent(), claims))

    with ThreadPoolExecutor(3) as threads:
        list(threads.map(one, (1, 2, 3)))
    assert sorted(map(str, log)) == [*map(str, range(6)), "alone", "joined"]
    assert sorted(made) == ["a", "b"]
    assert {path.name for path in folder.iterdir()} - {".lock"} == {"a", "b", "study.toml"}
    assert bring_up_to_date(shared_stages(log), open_run(folder), Silent()) == []


def test_parts_are_done_before_a_stage_is_made_where_one_command_has_workers(folder):
    log = []
    assert bring_up_to_date(shared_stages(log, 2), open_run(folder), Silent(), Here()) == ["a", "b"]
    assert log == [0, 1, "joined", "alone"]
