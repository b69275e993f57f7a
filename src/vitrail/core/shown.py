"""What shows itself in a notebook, as a picture and a table instead of a line of text."""

from __future__ import annotations

import vitrail


class Shown:
    """What a notebook shows as `vitrail.html_of` draws it.

    Whoever draws stands far above what is drawn, and nothing imports upwards here. So what is to be shown asks the
    face of the package, which stands above the house and loads each of its names when it is first used: no drawing is
    loaded before a notebook shows something.
    """

    __slots__ = ()

    def _repr_html_(self) -> str:
        """Return what IPython, and all that follow its protocol, show."""
        return vitrail.html_of(self)
