"""What a synthetic cohort and a synthetic slide are made of: the arguments that decide every pixel."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace

import numpy as np

from vitrail.errors import SettingsError

DRAWING = "vitrail phantom 1"
"""Name and version of the way slides are drawn; a slide of another version is drawn again."""

LAYOUT_STEP = 8
"""Level-0 pixels for each pixel of the tissue-type map."""

SITES = ("oral cavity", "oropharynx", "hypopharynx", "larynx")
_SITE_WEIGHTS = (0.2, 0.5, 0.15, 0.15)
ARTEFACT_NAMES = (
    *("pen_blue", "pen_black", "pen_green", "pen_red"),
    *("fold", "blur", "blood", "dust", "fibre", "text", "bubble"),
)
"""What `SlideSpec.artefacts` may name."""

CAUSES: dict[str, tuple[str, ...]] = {
    "size": ("size",),
    "darkness": ("darkness",),
    "outline": ("outline",),
    "atypia": ("size", "darkness", "outline"),
    "crowding": ("crowding",),
    "cytoplasm": ("cytoplasm",),
    "stroma": ("stroma",),
}
"""What makes a carcinoma one, by name the parts that `SlideSpec.without` takes away: see there."""

SHORTCUTS = ("ink", "stain", "blur", "mark")
"""What gives a carcinoma away and is none of it: see `SlideSpec.shortcuts`."""

_SMALLEST_SIDE = 512
_SIDE_STEP = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class SlideSpec:
    """Everything that decides one synthetic slide: the same spec gives the same pixels.

    Attributes
    ----------
    slide_id
        The stem of its files.
    side_px
        Width and height at level 0; a multiple of 64, at least 512.
    mpp
        Micrometres per level-0 pixel.
    seed
        The numbers that seed the slide's random generators.
    keratinising
        Whether the carcinoma forms keratin pearls; p16-positive carcinomas of the oropharynx seldom do.
    artefacts
        What spoils the slide, each name drawn once: `pen_blue`, `pen_black`, `pen_green`, `pen_red`, `fold`, `blur`,
        `blood`, `dust`, `fibre`, `text`, `bubble`.
    without
        Causes taken away from the carcinoma, names of `CAUSES`: its nuclei get the `size`, the `darkness` (with the
        chromatin and nucleoli) or the `outline` of normal squamous nuclei, or all three (`atypia`); no nucleus is near
        another (`crowding`); the cells' bodies are pale, with borders, as in squamous epithelium (`cytoplasm`); its
        stroma is normal connective tissue (`stroma`). Everything else keeps its random numbers, and its bytes.
    shortcuts
        What lies in the carcinoma and nowhere else, names of `SHORTCUTS`: strokes of a pen (`ink`), more hematoxylin
        and less eosin (`stain`), a lack of focus (`blur`), small crosses burnt into the picture (`mark`).
    """

    slide_id: str
    side_px: int = 4096
    mpp: float = 0.5
    seed: tuple[int, ...] = (0,)
    keratinising: bool = True
    artefacts: tuple[str, ...] = ()
    without: tuple[str, ...] = ()
    shortcuts: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.side_px < _SMALLEST_SIDE or self.side_px % _SIDE_STEP:
            cure = f"Use a multiple of {_SIDE_STEP}, at least {_SMALLEST_SIDE}"
            raise SettingsError("side_px", f"a synthetic slide cannot have a side of {self.side_px} pixels", cure)
        if not 0.2 <= self.mpp <= 1.0:
            raise SettingsError("mpp", f"nuclei cannot be drawn at {self.mpp} um/px", "Use 0.2 to 1.0 um/px")
        for name in set(self.artefacts) - set(ARTEFACT_NAMES):
            raise SettingsError("artefacts", f"{name!r} cannot be drawn", f"Choose from {', '.join(ARTEFACT_NAMES)}")
        for name in sorted(set(self.without) - set(CAUSES)):
            raise SettingsError("without", f"{name!r} cannot be taken away", f"Choose from {', '.join(CAUSES)}")
        for name in sorted(set(self.shortcuts) - set(SHORTCUTS)):
            raise SettingsError("shortcuts", f"{name!r} cannot be planted", f"Choose from {', '.join(SHORTCUTS)}")
        # one way to say it: atypia is its parts, and the order does not count
        parts = {part for name in self.without for part in CAUSES[name]}
        object.__setattr__(self, "without", tuple(name for name in CAUSES if name in parts))
        object.__setattr__(self, "shortcuts", tuple(name for name in SHORTCUTS if name in self.shortcuts))

    @property
    def side_um(self) -> float:
        """Width and height in micrometres."""
        return self.side_px * self.mpp

    def rng(self, *room: int) -> np.random.Generator:
        """Return the random generator of one step of the drawing, named by numbers."""
        return np.random.default_rng([*self.seed, *room])

    @property
    def description(self) -> str:
        """The spec as written into the slide's header: JSON."""
        record = {"drawing": DRAWING, **asdict(self), "seed": list(self.seed)}
        for name in ("artefacts", "without", "shortcuts"):
            if not record[name]:  # clean slides keep the header they always had
                del record[name]
        return json.dumps(record, sort_keys=True)


def without_cause(spec: SlideSpec, cause: str) -> SlideSpec:
    """Return the spec of the same slide with one thing less: the other half of a pair.

    Parameters
    ----------
    spec
        The slide.
    cause
        One of `CAUSES`, or a shortcut that the slide has.

    Returns
    -------
    SlideSpec
        Every pixel that the cause has no part in stays, byte by byte.

    Raises
    ------
    SettingsError
        There is no such cause, or the slide does not have it.
    """
    if cause in SHORTCUTS:
        if cause not in spec.shortcuts:
            raise SettingsError("shortcuts", f"{spec.slide_id} has no {cause} to take away", f"Plant {cause} first")
        return replace(spec, shortcuts=tuple(name for name in spec.shortcuts if name != cause))
    if cause in CAUSES and set(CAUSES[cause]) <= set(spec.without):
        raise SettingsError("without", f"{spec.slide_id} has no {cause} any more", "Take away another cause")
    return replace(spec, without=(*spec.without, cause))


@dataclass(frozen=True, slots=True, kw_only=True)
class PhantomCohort:
    """A cohort of synthetic slides.

    Attributes
    ----------
    patients
        Number of patients.
    slides_per_patient
        Slides of each patient.
    side_px
        Width and height of every slide at level 0.
    mpp
        Micrometres per level-0 pixel.
    seed
        Decides every slide and every attribute; patient 3 is the same in a cohort of 5 and of 50.
    shortcut
        One of `SHORTCUTS`, planted into the carcinoma of every slide, so that a network can learn it instead; or None.
    """

    patients: int = 12
    slides_per_patient: int = 1
    side_px: int = 4096
    mpp: float = 0.5
    seed: int = 0
    shortcut: str | None = None

    def __post_init__(self) -> None:
        for name in ("patients", "slides_per_patient"):
            if getattr(self, name) < 1:
                raise SettingsError(name, "a synthetic cohort cannot be empty", "Ask for at least one")
        SlideSpec(slide_id="", side_px=self.side_px, mpp=self.mpp, shortcuts=self._shortcuts)

    @property
    def _shortcuts(self) -> tuple[str, ...]:
        return () if self.shortcut is None else (self.shortcut,)

    def slides(self) -> list[tuple[SlideSpec, dict[str, str]]]:
        """Return the spec of every slide with its row of slides.csv."""
        pairs = []
        for patient in range(1, self.patients + 1):
            # about as frequent as in the paper: 57 of 101 oropharyngeal, 30 of them p16 positive
            rng = np.random.default_rng([self.seed, patient])
            site, positive = str(rng.choice(SITES, p=_SITE_WEIGHTS)), rng.random() < 0.53
            p16 = ("positive" if positive else "negative") if site == "oropharynx" else ""
            for number in range(self.slides_per_patient):
                slide_id = f"P{patient:02d}_{number}"
                spec = SlideSpec(
                    slide_id=slide_id,
                    side_px=self.side_px,
                    mpp=self.mpp,
                    seed=(self.seed, patient, number),
                    keratinising=p16 != "positive",
                    shortcuts=self._shortcuts,
                )
                row = {
                    "slide_id": slide_id,
                    "patient_id": f"P{patient:02d}",
                    "slide": f"slides/{slide_id}.tif",
                    "annotations": f"annotations/{slide_id}.geojson",
                    "site": site,
                    "p16": p16,
                }
                pairs.append((spec, row))
        return pairs
