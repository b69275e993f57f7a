"""What other systems lack or do in another way, simulated: docs/platforms.md says what was seen on real ones."""

from __future__ import annotations

import ast
import io
import os
import re
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

import vitrail.__main__ as program
from vitrail.core import files, parallel
from vitrail.core.progress import Bars, Silent
from vitrail.distribute import presence
from vitrail.errors import CohortError, RunError
from vitrail.models import device
from vitrail.settings.load import preset, settings_text
from vitrail.slides import cohort
from vitrail.stage import Stage, bring_up_to_date, open_run

ROOT = Path(__file__).parents[2]
SOURCES = sorted((ROOT / "src").rglob("*.py"))
POSIX_ALONE = {"fcntl", "grp", "pwd", "resource", "termios", "tty"}
DEVICES = {"aux", "con", "nul", "prn"}


def calls(tree):
    """Yield the name, the call and its keywords of whatever may open a text file."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if name in {"open", "read_text", "write_text"}:
                yield name, node, {keyword.arg for keyword in node.keywords}


def in_unsaid_encoding(name, call, keywords):
    """Judge a call; slides, runs and archives have methods of these names, whose first argument is no mode."""
    if name == "open":
        modes = [each.value for each in call.args if isinstance(each, ast.Constant) and isinstance(each.value, str)]
        is_text = any(set(mode) <= set("rwax+t") for mode in modes)
    else:
        own = isinstance(call.func, ast.Name)  # vitrail.core.files.write_text
        is_text = not own
    return is_text and "encoding" not in keywords


def unsaid(text):
    """Return the lines of a source in which a text file is opened as the system likes it."""
    if not re.search(r"open\(|_text\(", text):
        return []
    return [
        call.lineno for *about, call, keywords in calls(ast.parse(text)) if in_unsaid_encoding(*about, call, keywords)
    ]


def test_every_text_file_is_opened_in_an_encoding_that_is_said():
    assert unsaid('path.open("w")\nopen(path, "r+")\npath.read_text()\n') == [1, 2, 3]
    assert unsaid('path.open("rb")\nopen_slide(path)\nwrite_text(path, text)\npath.read_text(encoding="utf-8")\n') == []
    files = [*SOURCES, ROOT / "hatch_build.py"]
    assert {path.name: lines for path in files if (lines := unsaid(path.read_text(encoding="utf-8")))} == {}


def test_modules_of_posix_are_imported_only_where_they_are_used():
    at_once = re.compile(rf"^(?:import|from) ({'|'.join(POSIX_ALONE)})\b", re.MULTILINE)
    assert [path.name for path in SOURCES if at_once.search(path.read_text(encoding="utf-8"))] == []


def test_names_of_files_are_fit_for_every_file_system():
    names = [
        path.relative_to(ROOT).as_posix() for folder in ("src", "tests", "docs") for path in (ROOT / folder).rglob("*")
    ]
    assert len({name.casefold() for name in names}) == len(names)
    assert [name for name in names if Path(name).stem.lower() in DEVICES] == []


@pytest.fixture
def refusing(monkeypatch):
    """Return what makes as many renamings be refused, and the waits between."""
    waits = []
    monkeypatch.setattr(files.time, "sleep", waits.append)

    def refuse(times):
        left, rename = [times], Path.replace

        def replace(path, target):
            left[0] -= 1
            if left[0] >= 0:
                raise PermissionError(13, "The process cannot access the file", str(target))
            return rename(path, target)

        monkeypatch.setattr(Path, "replace", replace)

    return refuse, waits


def test_on_windows_a_file_that_others_look_at_is_replaced_a_little_later(tmp_path, monkeypatch, refusing):
    refuse, waits = refusing
    monkeypatch.setattr(files, "_PATIENCE", 5)
    refuse(3)
    files.write_text(tmp_path / "a.txt", "new")
    assert (tmp_path / "a.txt").read_text(encoding="utf-8") == "new"
    assert waits == sorted(waits)
    assert len(waits) == 3
    refuse(100)
    with pytest.raises(PermissionError):
        files.write_text(tmp_path / "a.txt", "newer")
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]
    assert sum(waits) < 2


@pytest.mark.skipif(os.name == "nt", reason="there it is waited for")
def test_elsewhere_a_refusal_is_final(tmp_path, refusing):
    refuse, waits = refusing
    refuse(1)
    with pytest.raises(PermissionError):
        files.write_text(tmp_path / "a.txt", "new")
    assert waits == []


def test_a_stage_that_another_program_looks_at_says_so(tmp_path, monkeypatch):
    (tmp_path / "study.toml").write_text(settings_text(preset("quick"), "A title"), encoding="utf-8")

    made = []

    def make(work):
        made.append(1)
        (work.folder / "made.txt").write_text("made", encoding="utf-8")

    stage = Stage(name="a", folder="a", version=1, settings=(), needs=(), inputs=lambda _: None, make=make)
    (tmp_path / "a").mkdir()

    def rename(path, _target):
        raise PermissionError(13, "Access is denied", str(path))

    with monkeypatch.context() as patched:
        patched.setattr(Path, "rename", rename)
        with pytest.raises(RunError, match=r"cannot be replaced \(Access is denied\)\. Close what shows this run"):
            bring_up_to_date((stage,), open_run(tmp_path), Silent())
    assert bring_up_to_date((stage,), open_run(tmp_path), Silent()) == ["a"]
    assert made == [1]  # what was made is not made again
    assert (tmp_path / "a" / "made.txt").exists()


def write_table(folder, slide_id):
    folder.mkdir(exist_ok=True)
    row = f"{slide_id},P1,S.svs,S.geojson"
    (folder / "slides.csv").write_text(f"slide_id,patient_id,slide,annotations\n{row}\n", encoding="utf-8")
    return folder / "slides.csv"


@pytest.mark.parametrize("name", ["CON", "nul", "com1", "LPT³", "Aux.svs", "con .x", "S1.", "a:b", "a?", 'x"y', "a|b"])
def test_names_that_windows_keeps_are_refused_there_and_only_there(tmp_path, monkeypatch, name):
    table = write_table(tmp_path, f'"{name.replace(chr(34), chr(34) * 2)}"')
    assert cohort.read_cohort(table)[0].slide_id == name
    monkeypatch.setattr(cohort, "_IS_WINDOWS", True)
    with pytest.raises(CohortError, match="cannot be a file name on Windows"):
        cohort.read_cohort(table)


@pytest.mark.parametrize("name", ["S1", "CONTROL", "com10", "A.con", "nullus", "Fräulein 1"])
def test_other_names_are_names_there(tmp_path, monkeypatch, name):
    monkeypatch.setattr(cohort, "_IS_WINDOWS", True)
    assert cohort.read_cohort(write_table(tmp_path, name))[0].slide_id == name


def test_slides_on_another_drive_stay_where_they_are(tmp_path, monkeypatch):
    table = write_table(tmp_path / "drive", "S1")

    def relpath(_path, _start):
        raise ValueError("path is on mount 'D:', start on mount 'C:'")

    monkeypatch.setattr(cohort.os.path, "relpath", relpath)
    (tmp_path / "run").mkdir()
    cohort.copy_cohort(table, tmp_path / "run" / "slides.csv")
    monkeypatch.undo()
    assert cohort.read_cohort(tmp_path / "run" / "slides.csv")[0].slide == (tmp_path / "drive" / "S.svs").resolve()


def test_without_proc_machines_of_one_name_are_two(monkeypatch):
    monkeypatch.setattr(presence, "Path", lambda name: Path(f"/nowhere{name}"))
    monkeypatch.setattr(presence.uuid, "getnode", lambda: 0xA1)
    first = presence.Worker.here()
    assert first.started == 0
    assert first.lives() is None  # the process is there, but may be another one of its number
    monkeypatch.setattr(presence.uuid, "getnode", lambda: 0xB2)
    assert presence.Worker.here().machine != first.machine
    assert first.lives() is None


def test_without_affinity_all_cores_are_there(monkeypatch):
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.delenv("VITRAIL_CORES", raising=False)
    assert parallel.cores() == os.cpu_count()


def test_without_masks_of_signals_work_goes_on(monkeypatch):
    monkeypatch.setattr(parallel, "signal", SimpleNamespace())
    assert sorted(result for _, result in parallel.in_processes(abs, [-1, -2], 2)) == [1, 2]


@pytest.mark.parametrize(
    "error", [TypeError("Windows has no library of its own"), AttributeError("mallopt"), OSError()]
)
def test_without_glibc_memory_is_left_as_it_is(monkeypatch, error):
    def library(_name):
        raise error

    monkeypatch.setattr(device.ctypes, "CDLL", library)
    assert device.keep_memory() is False


def test_without_cpuinfo_there_are_no_flags(tmp_path, monkeypatch):
    monkeypatch.delenv("VITRAIL_CPU_BFLOAT16", raising=False)
    assert device._cpu_flags(tmp_path / "cpuinfo") == set()


class Console(io.TextIOWrapper):
    """A terminal of Windows with a code page."""

    def isatty(self):
        return True


@pytest.mark.parametrize("encoding", ["cp1252", "cp437", "ascii", "utf-8"])
def test_a_terminal_that_lacks_a_letter_shows_its_code(monkeypatch, encoding):
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", Console(written, encoding=encoding, newline="\n"))
    monkeypatch.setattr("vitrail.cli.main", lambda: sys.stdout.write("µm 腫瘍 \udcff\n"))
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "1")
    program._command_line()
    sys.stdout.flush()
    expected = {"cp1252": "µm \\u816b\\u760d", "cp437": "µm \\u816b\\u760d", "ascii": "\\xb5m \\u816b\\u760d"}
    assert written.getvalue().decode(encoding) == f"{expected.get(encoding, 'µm 腫瘍')} \\udcff\n"


@pytest.mark.parametrize("columns", ["20", "40", "200"])
def test_bars_fit_narrow_consoles_and_small_encodings(monkeypatch, columns):
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stderr", Console(written, encoding="cp1252", newline="\n"))
    monkeypatch.setenv("COLUMNS", columns)
    monkeypatch.setenv("TERM", "xterm")
    bars = Bars()
    with bars.task("tiles", 3) as step:
        step(2, note="S1")
        step()
    bars.say("done")
    sys.stderr.flush()
    text = re.sub(r"\x1b\[[^a-zA-Z]*[a-zA-Z]|\r", "\n", written.getvalue().decode("cp1252"))
    assert "done" in text
    assert max(map(len, text.splitlines())) <= int(columns)


def test_there_may_be_no_terminal_at_all(monkeypatch):
    monkeypatch.setattr(sys, "stdout", None)
    monkeypatch.setattr(sys, "stderr", None)
    ran = []
    monkeypatch.setattr("vitrail.cli.main", lambda: ran.append(1))
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "1")
    program._command_line()
    assert ran == [1]
