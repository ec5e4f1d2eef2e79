"""What somebody, or something, said of one frame, and how several such judgements are taken together."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from triage.core import NON_DIFFRACTION_KINDS, TriageError

ORIGINS = ("simulated", "indexing", "person")
TRUST = ("indexing", "person", "simulated")
"""The least trusted first: a person sees what an indexer missed, and what was drawn is known."""
JUDGED = ("n_lattices", "diffracts", "non_diffraction_kind", "ice_rings", "decayed", "d_min_A")


class LabelError(TriageError):
    """A label cannot be used; the message says what is wrong with it, `column` where."""

    def __init__(self, problem: str, column: str | None = None) -> None:
        super().__init__(problem)
        self.column = column


@dataclass(frozen=True, slots=True, kw_only=True)
class Label:
    """One row of the label store; what was not judged is None. Raises LabelError where it contradicts itself."""

    source: str
    """The file as results name it (`run.source`), or the image file itself."""
    frame: int
    """Zero-based within the source."""
    n_lattices: int | None = None
    """Visible sample lattices."""
    diffracts: bool | None = None
    """Whether a sample lattice is visible: the same as n_lattices > 0."""
    non_diffraction_kind: str | None = None
    """One of NON_DIFFRACTION_KINDS, of a frame that does not diffract."""
    ice_rings: bool | None = None
    decayed: bool | None = None
    d_min_A: float | None = None
    labeller: str
    origin: str
    """One of ORIGINS."""
    time: datetime | None = None
    """In UTC; None until it is stored."""
    undoes: datetime | None = None
    """Time of the label of the same frame and labeller that is taken back; the columns then say what they say without it."""

    def __post_init__(self) -> None:
        _check_key(self)
        if self.n_lattices is not None and self.n_lattices < 0:
            raise LabelError(f"{self.n_lattices} is out of range, must be >= 0", "n_lattices")
        if self.d_min_A is not None and not 0.0 < self.d_min_A < float("inf"):
            raise LabelError(f"{self.d_min_A:g} is out of range, must be > 0 and finite", "d_min_A")
        if self.non_diffraction_kind is not None and self.non_diffraction_kind not in NON_DIFFRACTION_KINDS:
            raise LabelError(f"{self.non_diffraction_kind!r} is not one of {', '.join(NON_DIFFRACTION_KINDS)}", "non_diffraction_kind")
        counted = None if self.n_lattices is None else self.n_lattices > 0
        if None not in (counted, self.diffracts) and counted != self.diffracts:
            raise LabelError(f"{_word(self.diffracts)} contradicts n_lattices {self.n_lattices}", "diffracts")
        if self.non_diffraction_kind is not None and (counted or self.diffracts):
            raise LabelError(f"{self.non_diffraction_kind!r} contradicts a frame that diffracts", "non_diffraction_kind")
        if self.d_min_A is not None and self.shows_lattices is False:
            raise LabelError(f"{self.d_min_A:g} contradicts a frame that does not diffract", "d_min_A")

    @property
    def says(self) -> dict[str, object]:
        """The columns that were judged."""
        return {name: value for name in JUDGED if (value := getattr(self, name)) is not None}

    @property
    def shows_lattices(self) -> bool | None:
        """Whether the frame diffracts, from any of the columns that tell."""
        if self.n_lattices is not None:
            return self.n_lattices > 0
        return False if self.non_diffraction_kind is not None else self.diffracts


def combined(labels: Iterable[Label]) -> Label:
    """One label of a frame from those of all labellers (at least one): each column from the most trusted origin that judged it, of
    these the latest; what contradicts a more trusted judgement is left out.
    """
    ranked = sorted(labels, key=_rank, reverse=True)
    found = replace(ranked[0], undoes=None)
    names = [found.labeller]
    for label in ranked[1:]:
        added = False
        for name, value in label.says.items():
            if getattr(found, name) is None:
                try:
                    found, added = replace(found, **{name: value}), True  # type: ignore[arg-type]
                except LabelError:
                    continue
        if added and label.labeller not in names:
            names.append(label.labeller)
    return replace(found, labeller="+".join(names))


def standing(rows: Iterable[Label]) -> list[Label]:
    """Of one labeller's rows of one frame, in order of time, the labels that were not taken back."""
    found: list[Label] = []
    for row in rows:
        if row.undoes is None:
            found.append(row)
        else:
            found = [label for label in found if label.time != row.undoes]
    return found


def _rank(label: Label) -> tuple[int, datetime]:
    return TRUST.index(label.origin), label.time or datetime.min.replace(tzinfo=UTC)


def _check_key(label: Label) -> None:
    for name in ("source", "labeller"):
        if not getattr(label, name).strip():
            raise LabelError("empty", name)
    if label.frame < 0:
        raise LabelError(f"{label.frame} is out of range, frames count from zero", "frame")
    if label.origin not in ORIGINS:
        raise LabelError(f"{label.origin!r} is not one of {', '.join(ORIGINS)}", "origin")
    for name in ("time", "undoes"):
        value = getattr(label, name)
        if value is not None and value.utcoffset() is None:
            raise LabelError(f"{value.isoformat()} has no time zone", name)


def _word(value: bool | None) -> str:
    return str(value).lower()
