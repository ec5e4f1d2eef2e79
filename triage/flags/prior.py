"""Probabilities at other base rates than the model's own."""

from __future__ import annotations

from triage.core import TriageError

Lattices = tuple[float, float, float, float]


class PriorError(TriageError):
    """Base rates that are no rates."""


def at_prior(lattices: Lattices, from_rates: Lattices, to_rates: Lattices) -> Lattices:
    """The probabilities of 0, 1, 2, 3-or-more lattices, calibrated at `from_rates`, as they are where the base rates are `to_rates`.

    Bayes' theorem with the likelihoods unchanged (Saerens, Latinne and Decaestecker, Neural Comput. 14 (2002) 21, eq. 2.4). Rates are
    relative; raises PriorError where one is negative, all are zero, or a class has no rate to come from.
    """
    for name, rates in (("from", from_rates), ("to", to_rates)):
        if not (all(rate >= 0 for rate in rates) and 0 < sum(rates) < float("inf")):
            raise PriorError(f"base rates ({name}) {rates}: set four numbers of at least 0, not all 0")
    if any(rate == 0 for rate in from_rates):
        raise PriorError(f"base rates (from) {from_rates}: a class the model has never met has no probability to adjust; set none to 0")
    odds = [p * to / was for p, was, to in zip(lattices, from_rates, to_rates, strict=True)]
    total = sum(odds)
    if total <= 0:  # the new rates exclude all that the network holds possible
        total_to = sum(to_rates)
        return to_rates[0] / total_to, to_rates[1] / total_to, to_rates[2] / total_to, to_rates[3] / total_to
    return odds[0] / total, odds[1] / total, odds[2] / total, odds[3] / total
