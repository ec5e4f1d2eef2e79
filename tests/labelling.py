"""Labels for the tests of the label store."""

from __future__ import annotations

from hypothesis import strategies as st

from training.labels.label import Label
from triage.core import NON_DIFFRACTION_KINDS


def said(frame: int = 0, *, labeller: str = "ada", origin: str = "person", source: str = "run.h5", **judged: object) -> Label:
    return Label(source=source, frame=frame, labeller=labeller, origin=origin, **judged)  # type: ignore[arg-type]


@st.composite
def judgements(draw: st.DrawFn) -> dict[str, object]:
    """Columns that do not contradict one another."""
    n_lattices = draw(st.none() | st.integers(0, 5))
    shows = draw(st.none() | st.booleans()) if n_lattices is None else n_lattices > 0
    kinds = st.none() | st.sampled_from(NON_DIFFRACTION_KINDS)
    return {
        "n_lattices": n_lattices,
        "diffracts": draw(st.sampled_from([shows, None])),
        "non_diffraction_kind": draw(kinds) if shows is False else None,
        "ice_rings": draw(st.none() | st.booleans()),
        "decayed": draw(st.none() | st.booleans()),
        "d_min_A": draw(st.none() | st.floats(0.5, 50.0)) if shows is not False else None,
    }
