"""The errors that a user can cause.

    VitrailError
    ├── SettingsError      study.toml or a command line value
    ├── CohortError        slides.csv: columns, patients, splits
    ├── SlideError         a slide that cannot be opened or read
    ├── AnnotationError    outlines that cannot be understood
    ├── TileError          a cohort that yields no usable tiles
    ├── ModelError         weights, encoders, model folders
    ├── NucleiError        a slide too coarse for nuclei, or an engine that cannot find them
    ├── RunError           a run folder that is not one, is not far enough, or is damaged
    └── ExchangeError      a file for or of other programs

Each one names the file, says what is wrong and how to mend it, in one line. The command line prints that line and
ends with exit code 2; library users catch `VitrailError` or a branch of it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


class VitrailError(Exception):
    """Something a user can mend.

    Parameters
    ----------
    where
        The file, folder, setting or identifier that the error is about.
    problem
        What is wrong, without a full stop.
    cure
        What to do about it, without a full stop.
    """

    def __init__(self, where: str | Path, problem: str, cure: str) -> None:
        self.where, self.problem, self.cure = str(where), problem, cure
        super().__init__(self.where, problem, cure)

    def __str__(self) -> str:
        # files can have names and values of any length in them: the middle of a long text is left out
        problem, cure = (
            text if len(text) <= 1000 else f"{text[:500]} ... {text[-250:]}" for text in (self.problem, self.cure)
        )
        end = "" if cure.endswith("?") else "."
        line = " ".join(f"{self.where}: {problem}. {cure[:1].upper()}{cure[1:]}{end}".split())
        # what a terminal would obey, or no file can hold, is shown as its code
        return "".join(letter if letter.isprintable() else letter.encode("unicode_escape").decode() for letter in line)


class SettingsError(VitrailError):
    """A setting that does not exist, or a value it cannot have."""


class CohortError(VitrailError):
    """A slides.csv that is not a cohort."""


class SlideError(VitrailError):
    """A slide that cannot be opened or read."""


class AnnotationError(VitrailError):
    """Outlines that cannot be understood."""


class TileError(VitrailError):
    """A cohort or slide that yields no usable tiles."""


class ModelError(VitrailError):
    """A model folder, encoder or weights that cannot be used."""


class NucleiError(VitrailError):
    """A slide too coarse for nuclei, or an engine that cannot find them."""


class RunError(VitrailError):
    """A folder that is not a run, or a run that is not far enough."""


class ExchangeError(VitrailError):
    """A file for other programs that cannot be written, or is not what it should be."""
