"""The documentation site: `make docs` builds it into `docs/_build/html`; warnings are errors."""

from __future__ import annotations

import base64
import inspect
import tempfile
from pathlib import Path
from typing import Any

import vitrail
from vitrail.settings.load import Settings

project, author, release = "Vitrail", "The Vitrail developers", vitrail.__version__
copyright = "2026, The Vitrail developers"  # noqa: A001 - the name that Sphinx reads
extensions = ["myst_parser", "sphinx.ext.autodoc", "numpydoc"]
exclude_patterns = ["_build"]
default_role = "code"
myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3
numpydoc_show_class_members = False
numpydoc_validation_checks = {"PR02", "RT02", "RT03", "YD01", "GL06", "GL07", "SS01"}
autodoc_typehints = "signature"
autodoc_member_order = "bysource"
html_theme = "furo"
html_title = "Vitrail"
html_theme_options = {
    "sidebar_hide_name": False,
    "light_css_variables": {"color-brand-primary": "#8a3d00", "color-brand-content": "#0b5f8a"},
    "dark_css_variables": {"color-brand-primary": "#f0a060", "color-brand-content": "#7cc0e8"},
}
html_show_sourcelink = False


def settings_page() -> str:
    """Write the page of all settings from the schema: what stands in a new `study.toml`, as tables."""
    lines = [
        "# Settings",
        "",
        "Every setting of `study.toml`, its default in the preset `paper`, and where it comes from; generated from the",
        'schema. Sentences after "Paper:" are of Dörrich et al. 2023, Diagn Pathol 18:121 (CC BY 4.0). Change one in',
        "the file, or with `--set group.name=value`. [What `quick` changes](../paper.md#the-preset-quick).",
        "",
    ]
    for group, field in Settings.model_fields.items():
        default = getattr(Settings(), group)
        if not hasattr(default, "model_dump"):
            lines += [f"`{group} = {default}`: {field.description}.", ""]
            continue
        lines += [f"## {group}", "", inspect.getdoc(type(default)) or "", ""]
        lines += ["| Setting | Default | Meaning |", "|---|---|---|"]
        for name, entry in type(default).model_fields.items():
            value = getattr(default, name)
            shown = "none" if value is None else repr(list(value) if isinstance(value, tuple) else value)
            meaning = (entry.description or "").replace("|", "\\|").replace("\n", " ")
            lines.append(f"| `{group}.{name}` | `{shown}` | {meaning} |")
        lines.append("")
    return "\n".join(lines)


NOTEBOOKS = Path(__file__).parent / "notebooks"


def executed(path: Path) -> Any:
    """Run a notebook from its first cell to its last, in an empty folder; an error of a cell is one of the caller."""
    import nbformat  # noqa: PLC0415 - of those who build the site or test it
    from nbclient import NotebookClient  # noqa: PLC0415 - the same

    notebook = nbformat.read(path, as_version=4)
    with tempfile.TemporaryDirectory(prefix="notebook-") as folder:
        NotebookClient(notebook, timeout=600, resources={"metadata": {"path": folder}}).execute()
    return notebook


def notebook_page(notebook: Any, name: str, folder: Path) -> str:
    """Write a notebook as a page, with what its cells have shown; pictures go into a folder beside it."""
    lines = []
    for number, cell in enumerate(notebook.cells):
        if cell.cell_type == "markdown":
            lines += [cell.source, ""]
            if number == 0:
                lines += [f"This page is [a notebook](../notebooks/{name}.ipynb): take it along and run it.", ""]
            continue
        lines += ["```python", cell.source, "```", ""]
        for output, shown in enumerate(getattr(cell, "outputs", ())):
            data = shown.get("data", {})
            if "text/html" in data:
                lines += ["```{raw} html", data["text/html"], "```", ""]
            elif "image/png" in data:
                picture = f"{name}-{number}-{output}.png"
                (folder / picture).write_bytes(base64.b64decode(data["image/png"]))
                lines += [f"![what the cell shows]({picture})", ""]
            elif "text/plain" in data:
                lines += ["```text", data["text/plain"], "```", ""]
    return "\n".join(lines)


def setup(app: Any) -> None:
    """Write what is generated, before Sphinx looks for pages."""
    folder = Path(app.srcdir) / "_generated"
    folder.mkdir(exist_ok=True)
    (folder / "settings.md").write_text(settings_page(), encoding="utf-8")
    for path in sorted(NOTEBOOKS.glob("*.ipynb")):
        page = notebook_page(executed(path), path.stem, folder)
        (folder / f"{path.stem}.md").write_text(page, encoding="utf-8")
