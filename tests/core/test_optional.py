"""Packages of extras: there, missing, or there and broken."""

from __future__ import annotations

import json
import sys
from importlib import metadata

import pytest

from vitrail.core.optional import import_optional
from vitrail.errors import ExchangeError


def test_a_package_that_is_there_is_imported():
    assert import_optional("json", "x", "This") is json


def test_a_missing_one_is_a_line_with_its_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "anndata", None)
    cure = r"This: the package anndata is not installed\. Run: pip install 'vitrail\[scverse\]'"
    with pytest.raises(ExchangeError, match=cure):
        import_optional("anndata", "scverse", "This")


def test_one_that_lacks_something_says_what(tmp_path, monkeypatch):
    (tmp_path / "broken_package.py").write_text("import of_another_age")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(
        ExchangeError, match=r"cannot be imported \(No module named 'of_another_age'\)\. Run: pip install -"
    ):
        import_optional("broken_package", "scverse", "This")


def test_one_that_is_too_old_says_so_before_it_is_imported(monkeypatch):
    monkeypatch.setattr(metadata, "version", lambda _: "0.7.0rc1")
    monkeypatch.setitem(sys.modules, "json", None)
    problem = r"the package json is 0\.7\.0rc1, and 0\.7\.3 or later is needed\. Run: pip install --upgrade"
    with pytest.raises(ExchangeError, match=problem):
        import_optional("json", "scverse", "This", "0.7.3")
    monkeypatch.undo()
    assert import_optional("pandas", "scverse", "This", "1.2.3").__name__ == "pandas"
    with pytest.raises(ExchangeError, match="the package of_another_age is not installed"):
        import_optional("of_another_age", "scverse", "This", "1.2.3")
