"""The changelog's section of one version, which is the text of its release.

    python -m release.changelog            # of this version
    python -m release.changelog --tag v0.1.0

With `--tag` the tag has to be the version of the code, and the section has to be dated: nothing is released by mistake.
"""

from __future__ import annotations

import argparse
import ast
import re
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
_HEADING = re.compile(r"^## (?P<version>\S+)(?: \((?P<when>[^)]*)\))?[ ]*$", re.MULTILINE)
_DATE = re.compile(r"\d{4}-\d{2}-\d{2}")


class NotReleasableError(ValueError):
    """A version that cannot be released as the repository stands."""


def version(root: Path = ROOT) -> str:
    """Read the version from the package's face, without importing it.

    Parameters
    ----------
    root
        Of the repository.

    Returns
    -------
    str
        `vitrail.__version__`.
    """
    tree = ast.parse((root / "src" / "vitrail" / "__init__.py").read_text(encoding="utf-8"))
    values = [
        node.value.value
        for node in tree.body
        if isinstance(node, ast.Assign)
        and [getattr(target, "id", "") for target in node.targets] == ["__version__"]
        and isinstance(node.value, ast.Constant)
    ]
    return str(values[0])


def section(text: str, of: str) -> tuple[str, str]:
    """Return what a changelog says of one version.

    Parameters
    ----------
    text
        A changelog whose versions are headings of the second level: `## 0.2.0 (2026-12-24)`.
    of
        The version.

    Returns
    -------
    tuple[str, str]
        What stands in the heading's brackets, and what stands below it, without the heading.

    Raises
    ------
    NotReleasableError
        The version has no section, two, or an empty one.
    """
    headings = [*_HEADING.finditer(text)]
    own = [at for at, heading in enumerate(headings) if heading["version"] == of]
    if len(own) != 1:
        raise NotReleasableError(f"CHANGELOG.md has {len(own) or 'no'} sections of {of}: write one, as ## {of} (DATE)")
    following = headings[own[0] + 1].start() if own[0] + 1 < len(headings) else len(text)
    body = text[headings[own[0]].end() : following].strip()
    if not body:
        raise NotReleasableError(f"CHANGELOG.md says nothing of {of}")
    return headings[own[0]]["when"] or "", body + "\n"


def notes(tag: str | None = None, root: Path = ROOT) -> str:
    """Return the text of a release.

    Parameters
    ----------
    tag
        The tag that is released; None looks at the version of the code, dated or not.
    root
        Of the repository.

    Returns
    -------
    str
        Markdown.

    Raises
    ------
    NotReleasableError
        The tag is not that of this version, or its section is missing, empty or without a date.
    """
    own = version(root)
    if tag is not None and tag != f"v{own}":
        raise NotReleasableError(f"the tag is {tag}, and the code is {own}: its tag is v{own}")
    when, body = section((root / "CHANGELOG.md").read_text(encoding="utf-8"), own)
    if tag is not None and not _DATE.fullmatch(when):
        raise NotReleasableError(f"CHANGELOG.md has no date for {own}: write ## {own} (YYYY-MM-DD)")
    return body


def main(arguments: list[str] | None = None) -> int:
    """Print the text of a release; 1 where there is none."""
    parser = argparse.ArgumentParser(description="Print the changelog's section of this version.")
    parser.add_argument("--tag", help="the tag that is released; it has to be this version's")
    asked = parser.parse_args(arguments)
    try:
        text = notes(asked.tag)
    except NotReleasableError as error:
        print(f"release: {error}", file=sys.stderr)
        return 1
    sys.stdout.buffer.write(text.encode())  # whatever the terminal's encoding
    return 0


if __name__ == "__main__":
    sys.exit(main())
