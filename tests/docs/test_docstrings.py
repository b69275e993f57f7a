"""Docstrings are numpydoc that a builder can parse: sections underlined, and what is returned has its type."""

from __future__ import annotations

import ast
import re
from pathlib import Path

SOURCE = Path(__file__).parents[2] / "src" / "vitrail"


def documented():
    for path in sorted(SOURCE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                yield f"{path.relative_to(SOURCE)}: {node.name}", node, ast.get_docstring(node) or ""


def test_what_is_returned_has_a_type_line_and_a_description():
    wrong = []
    for name, _, text in documented():
        for section in re.finditer(r"^(Returns|Yields)\n-+\n(.*?)(?=^\w+\n-+\n|\Z)", text, re.MULTILINE | re.DOTALL):
            first, *rest = section.group(2).strip("\n").splitlines()
            if first.endswith(".") or not rest or not rest[0].startswith("    "):
                wrong.append(name)
    assert wrong == []


def test_every_parameter_that_a_docstring_lists_is_one():
    wrong = []
    for name, node, text in documented():
        section = re.search(r"^Parameters\n-+\n(.*?)(?=^\w+\n-+\n|\Z)", text, re.MULTILINE | re.DOTALL)
        if section is None or not isinstance(node, ast.FunctionDef):
            continue
        told = [
            each.strip().lstrip("*")
            for line in section.group(1).splitlines()
            if line and line[0] != " "
            for each in line.split(" : ")[0].split(",")
        ]
        arguments = {arg.arg for arg in ast.walk(node.args) if isinstance(arg, ast.arg)}
        wrong += [f"{name}({each})" for each in told if each not in arguments]
        if node.name[0] != "_":
            missing = arguments - set(told) - {"self", "cls"}
            wrong += [f"{name}: {each} is not listed" for each in sorted(missing)]
    assert wrong == []
