"""What the values of masks mean: tables of data sets, and those that a user gives."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING

from vitrail.errors import SettingsError

if TYPE_CHECKING:
    from collections.abc import Mapping

NOTHING = "none"
"""The class of values that are not outlined."""

_ENTRY = re.compile(r"\s*(?:(?P<low>\d+)(?:-(?P<high>\d+))?|#(?P<colour>[0-9a-fA-F]{6}))\s*=\s*(?P<name>[^\s=][^=]*)")
_MOST = 1 << 16
_CURE = "Write values and classes, such as 1=Tumor,2=Non-tumor,0=none, or one of: {}"


@dataclass(frozen=True, slots=True, kw_only=True)
class MaskClasses:
    """A table of values and classes.

    Attributes
    ----------
    values
        Class by grey value, or by index of a palette; `NOTHING` where it is not outlined.
    colours
        The same by colour, red times 65,536 and green times 256 and blue. Without any, grey values are meant.
    source
        Where it is from.
    """

    values: Mapping[int, str]
    colours: Mapping[int, str] = field(default_factory=dict)
    source: str = "--classes"

    @property
    def names(self) -> tuple[str, ...]:
        """The classes that are outlined, in the order of the table."""
        named = dict.fromkeys((*self.values.values(), *self.colours.values()))
        return tuple(name for name in named if name != NOTHING)

    def index_of(self, value: int, *, colour: bool) -> int | None:
        """Return which of `names` a value means, counted from 1.

        Parameters
        ----------
        value
            Of a pixel: grey, or a packed colour.
        colour
            Which of both.

        Returns
        -------
        int | None
            0 where it is not outlined, None where the table does not say.
        """
        name = self.colours.get(value) if colour else self.values.get(value)
        if name is None and colour and value % 0x10101 == 0:
            name = self.values.get(value // 0x10101)  # a grey that is stored as a colour
        elif name is None and not colour:
            name = self.colours.get(value * 0x10101)
        if name is None:
            return None
        return 0 if name == NOTHING else self.names.index(name) + 1


_ORCA = {0: NOTHING} | dict.fromkeys(range(64, 192), "Non-tumor") | {255: "Tumor"}
_OCDC = {0: "Non-tumor", 255: "Tumor"}
_BCSS = {
    0: NOTHING,  # outside_roi: never annotated
    1: "Tumor",
    2: "Non-tumor: Stroma",
    3: "Non-tumor: Lymphocytic infiltrate",
    4: NOTHING,  # necrosis_or_debris
    5: NOTHING,  # glandular_secretions
    6: NOTHING,  # blood
    7: NOTHING,  # exclude
    8: "Non-tumor: Metaplasia",
    9: "Non-tumor: Fat",
    10: "Non-tumor: Plasma cells",
    11: "Non-tumor: Other immune infiltrate",
    12: NOTHING,  # mucoid_material
    13: "Non-tumor: Normal acinus or duct",
    14: "Non-tumor: Lymphatics",
    15: NOTHING,  # undetermined
    16: "Non-tumor: Nerve",
    17: "Non-tumor: Skin adnexa",
    18: "Non-tumor: Blood vessel",
    19: "Tumor: Angioinvasion",
    20: "Tumor: DCIS",
    21: NOTHING,  # other
}

TABLES: Mapping[str, MaskClasses] = MappingProxyType(
    {
        # white is carcinoma, grey other tissue, whose shade is not stated, and black no tissue
        "orca": MaskClasses(values=_ORCA, source="Martino et al. 2020, doi:10.3390/app10228285"),
        # all tumor of a field is white; the rest is not tumor
        "ocdc": MaskClasses(values=_OCDC, source="dos Santos et al. 2023, arXiv:2303.10172"),
        "bcss": MaskClasses(
            values=_BCSS, source="Amgad et al. 2019, doi:10.1093/bioinformatics/btz083, gtruth_codes.tsv"
        ),
    }
)
"""Tables of data sets. A study finds `Non-tumor: Stroma` under Non-tumor, unless its settings name it in full."""


def parse_classes(text: str) -> MaskClasses:
    """Read a table of values and classes.

    Parameters
    ----------
    text
        A key of `TABLES`; or entries with commas between them, such as `1=Tumor`, `64-191=Non-tumor`, `#ff0000=Tumor`
        and `0=none`. Black is none unless it is named.

    Returns
    -------
    MaskClasses
        The table.

    Raises
    ------
    SettingsError
        It is none, names a value twice, or no class.
    """
    if text.casefold() in TABLES:
        return TABLES[text.casefold()]
    cure = _CURE.format(", ".join(TABLES))
    values, colours = dict[int, str](), dict[int, str]()
    for entry in text.split(","):
        match = _ENTRY.fullmatch(entry)
        if match is None:
            raise SettingsError("--classes", f"{entry.strip()!r} is no value and class", cure)
        name = " ".join(match["name"].split())
        name = NOTHING if name.casefold() == NOTHING else name
        low = int(match["low"] or 0)
        high = int(match["high"] or low)
        if not low <= high < _MOST:
            raise SettingsError("--classes", f"{entry.strip()!r} is no range of values below {_MOST:,}", cure)
        table, keys = (colours, [int(match["colour"], 16)]) if match["colour"] else (values, [*range(low, high + 1)])
        if table.keys() & keys:
            raise SettingsError("--classes", f"{entry.strip()!r} names a value again", cure)
        table.update(dict.fromkeys(keys, name))
    if 0 not in colours:
        values.setdefault(0, NOTHING)
    classes = MaskClasses(values=values, colours=colours)
    if not 0 < len(classes.names) < 255:
        raise SettingsError("--classes", f"{len(classes.names)} classes to outline", cure)
    return classes
