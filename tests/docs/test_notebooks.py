"""The notebooks run from their first cell to their last, show what they promise, and become pages of the site."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest

pytest.importorskip("nbclient")
pytest.importorskip("ipykernel")

DOCS = Path(__file__).parents[2] / "docs"
NOTEBOOKS = sorted((DOCS / "notebooks").glob("*.ipynb"))


@pytest.fixture(scope="module", name="conf")
def configuration():
    """Return what builds the site."""
    spec = importlib.util.spec_from_file_location("docs_conf", DOCS / "conf.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("path", NOTEBOOKS, ids=[path.stem for path in NOTEBOOKS])
def test_it_is_kept_without_what_it_showed(path):
    """Pictures of another day would stay when the code changes, and a user's would show slides."""
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert [(cell["outputs"], cell["execution_count"]) for cell in code] == [([], None)] * len(code)
    assert len(cells) - len(code) >= 5  # there is something to read


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("own_network", ["<Saliency deeplift for atypia", "<Saliency gradcam for atypia"]),
        ("study", ["<Cohort", "<Slide", "<Study", "<TileTable", "<Saliency deeplift for tumor"]),
        ("cohort", ["<Cohort", "<Tissue", "<TileTable", "<Slide"]),
    ],
)
def test_all_of_it_runs_and_is_shown(name, shown, conf, tmp_path, monkeypatch):
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    notebook = conf.executed(DOCS / "notebooks" / f"{name}.ipynb")
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == [*range(1, len(code) + 1)]
    outputs = [output for cell in code for output in cell.outputs]
    assert {output.output_type for output in outputs} <= {"execute_result", "display_data", "stream"}
    results = [output.data for output in outputs if "data" in output]
    for start in shown:
        (card,) = [data for data in results if data["text/plain"].startswith(start)]
        assert "data:image/" in card["text/html"] or start == "<Cohort"
    page = conf.notebook_page(notebook, name, tmp_path)
    assert page.startswith("# ")
    assert page.count("```python") == len(code) + (name == "study")  # which names a command for later
    assert page.count("```{raw} html") == sum("text/html" in data for data in results)
    pictures = sum("image/png" in data and "text/html" not in data for data in results)
    assert len(list(tmp_path.glob("*.png"))) == page.count("![") == pictures
    if name == "own_network":  # what its last words say
        ranks = [page.index(f">{method}<") for method in ("DeepLIFT", "Edges, the floor")]
        assert ranks == sorted(ranks)


def test_every_notebook_is_a_page_that_can_be_found():
    text = (DOCS / "library.md").read_text(encoding="utf-8")
    assert [path.stem for path in NOTEBOOKS if f"](_generated/{path.stem}.md)" not in text] == []
    assert [path.stem for path in NOTEBOOKS if f"\n_generated/{path.stem}\n" not in text] == []
