"""The house: floors, no import that goes up or sideways."""

from __future__ import annotations

import ast
import re
from pathlib import Path

from vitrail.cli import app

SOURCE = Path(__file__).parents[1] / "src" / "vitrail"

FLOORS = (
    ("errors", "geometry", "classes"),
    ("core", "metrics"),
    ("settings", "distribute"),
    ("stage",),
    ("slides",),
    ("quality",),
    ("tiles",),
    ("synthetic", "models"),
    ("interop",),
    ("nuclei", "cohorts"),
    ("inference",),
    ("training", "explain", "shift"),
    ("review",),
    ("evaluation", "search"),
    ("report",),
    ("pipeline", "viewer"),
    ("notebook",),
    ("demo",),
    ("cli",),
    ("__main__",),
)
"""Bottom first. What stands on one floor are rooms without doors between them, but for `OPEN`."""

OPEN = {"errors", "geometry", "classes"}
"""Foundations: small modules of one floor that may use each other."""


def room(module):
    return module.split(".")[1]


def imports():
    """Yield who imports what; the face, which names everything and loads nothing, stands above the house."""
    for path in SOURCE.rglob("*.py"):
        if path == SOURCE / "__init__.py":
            continue
        module = ".".join(("vitrail", *path.relative_to(SOURCE).with_suffix("").parts))
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("vitrail."):
                yield module, node.module


def floor_of(name):
    return next(i for i, rooms in enumerate(FLOORS) if name in rooms)


def test_no_import_goes_up_or_sideways():
    wrong = [
        f"{user} imports {used}"
        for user, used in imports()
        if room(user) != room(used)
        and not (
            floor_of(room(used)) < floor_of(room(user))
            or (floor_of(room(used)) == floor_of(room(user)) and {room(used), room(user)} <= OPEN)
        )
    ]
    assert wrong == []


def test_no_work_on_real_slides_depends_on_synthetic_ones():
    users = {user for user, used in imports() if room(used) == "synthetic" and room(user) != "synthetic"}
    assert all(user == "vitrail.demo" or user.startswith("vitrail.explain.checks.") for user in users), users


def test_every_room_has_a_floor():
    rooms = {path.stem for path in SOURCE.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()}
    assert rooms - {"__init__"} == {name for floor in FLOORS for name in floor}


def test_every_command_that_a_message_names_exists():
    texts = [
        node.value
        for path in SOURCE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    ]
    named = {
        name for text in texts for name in re.findall(r"(?:with:?|run:|again:|:|through) vitrail ([a-z]+)", text)
    } | {name for text in texts for name in re.findall(r"\bvitrail ([a-z]+) (?:RUN|SLIDE|PICTURE)", text)}
    assert len(named) >= 5
    assert named <= {command.name or command.callback.__name__ for command in app.registered_commands}


def test_what_worker_processes_import_is_free_of_torch():
    light = [
        path for floor in ("slides", "quality", "tiles", "metrics", "report") for path in (SOURCE / floor).rglob("*.py")
    ]
    names = {
        path.name
        for path in light
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Import | ast.ImportFrom)
        and any(
            part.split(".")[0] in {"torch", "timm"}
            for part in (getattr(node, "module", "") or "", *(a.name for a in node.names))
        )
    }
    assert names == set()


def test_no_imports_go_in_a_circle():
    """Not even those that are there for types alone: what knows each other is one file, or meets in a third."""
    names = {".".join(("vitrail", *path.relative_to(SOURCE).with_suffix("").parts)) for path in SOURCE.rglob("*.py")}
    graph = {name: set() for name in names}
    for user, used in imports():
        graph[user] |= {used} & names
    while free := [name for name, uses in graph.items() if not uses & graph.keys()]:
        for name in free:
            del graph[name]
    assert sorted(graph) == []
