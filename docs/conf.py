"""The documentation site: `make docs` builds it into `docs/_build/html`; warnings are errors."""

from __future__ import annotations

import inspect
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


def setup(app: Any) -> None:
    """Write what is generated, before Sphinx looks for pages."""
    folder = Path(app.srcdir) / "_generated"
    folder.mkdir(exist_ok=True)
    (folder / "settings.md").write_text(settings_page(), encoding="utf-8")
