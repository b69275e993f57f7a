"""The page of the architecture stays true: its tree."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")


def tree_files():
    """Read the indented tree as paths."""
    tree = re.search(r"<!-- tree -->\n```\n(.*?)```", TEXT, re.DOTALL).group(1)
    parents, files = [], []
    for line in tree.splitlines():
        depth, name = (len(line) - len(line.lstrip())) // 4, line.split()[0]
        parents[depth:] = [name]
        files += [] if name.endswith("/") else ["".join(parents)]
    return files


def test_the_tree_is_the_trees():
    files = {p.relative_to(ROOT).as_posix() for p in (ROOT / "src").rglob("*.py") if p.name != "__init__.py"}
    told = tree_files()
    assert sorted(told) == sorted(files)
