"""What happens to a crystal and its beam in the course of a run: damage, and all that looks like damage or hides it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

LOOK_ALIKES = (
    "none",
    "leaving",
    "plate",
    "flux_dips",
    "top_up",
    "missing",
    "background",
    "ice",
    "second_lattice",
    "thicker",
)
"""What else happens in a run; drawn alike for damaged and undamaged ones, half of which have none."""
LOSS_THAT_COUNTS = 0.8
"""Of the outer shell: a run that passes it before its end is one that has to be flagged."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Damage:
    """How a run is damaged; constants drawn about published ones."""

    exponent: float
    """-ln of the outer shell's remaining intensity at the run's end: B and scale together; 0: undamaged."""
    onset: float
    """Share of the run after which the dose sets in."""
    room_temperature: bool
    scale_per_B: float
    """-ln of the overall scale lost with each A^2 of B. Half the intensity after 43 MGy at 100 K (Owen, Rudino-Pinera & Garman, PNAS 103
    (2006) 4912) is 0.016 a MGy, so about 0.016 an A^2."""
    B_per_MGy: float
    """A^2; about 1 at 100 K (Kmetko et al., Acta Cryst. D62 (2006) 1030), some 50 to 100 times that at room temperature."""
    cell_growth_per_B: float
    """Relative, of each edge: 0.02 to 0.05 % a MGy (Ravelli & McSweeney, Structure 8 (2000) 315)."""
    broadening_per_B: float
    """Relative growth of the rocking curve with each A^2."""

    def growths(self, n_frames: int, outer_d_A: float) -> Floats:
        """delta_B in A^2 in the middle of each frame (n_frames,)."""
        total_B = self.exponent / (self.scale_per_B + 1.0 / (2.0 * outer_d_A**2))
        time = (np.arange(n_frames) + 0.5) / n_frames
        return np.asarray(total_B * np.clip((time - self.onset) / (1.0 - self.onset), 0.0, 1.0))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Course:
    """One run, frame by frame; arrays (n_frames,)."""

    look_alike: str
    brightness: Floats
    """Flux times illuminated volume, relative; all resolutions alike."""
    background: Floats
    """Relative level of the smooth scattering."""
    ice: Floats
    """Strength of ice rings over the background's level."""
    second: Floats
    """Scale of a second lattice of the same crystal."""
    present: Bools
    """Frames that arrive."""


def draw_damage(rng: np.random.Generator, *, damaged: bool) -> Damage:
    """From imperceptible to total; three in five damaged runs lose 80 % of the outer shell within the run."""
    if not damaged:
        exponent = 0.0
    elif rng.random() < 0.6:
        exponent = -math.log(1.0 - LOSS_THAT_COUNTS) / rng.uniform(0.3, 0.98)
    else:
        exponent = math.exp(rng.uniform(math.log(0.03), math.log(1.6)))
    warm = bool(rng.random() < 0.3)
    return Damage(
        exponent=exponent,
        onset=float(rng.uniform(0.1, 0.6)) if rng.random() < 0.3 else 0.0,
        room_temperature=warm,
        scale_per_B=float(rng.uniform(0.003, 0.02)),
        B_per_MGy=float(rng.uniform(0.7, 1.3) * (rng.uniform(50, 100) if warm else 1.0)),
        cell_growth_per_B=float(rng.uniform(1e-4, 5e-4) * (0.2 if warm else 1.0)),
        broadening_per_B=float(rng.uniform(0.0, 0.02)),
    )


def draw_course(rng: np.random.Generator, n_frames: int, angle_deg: Floats) -> Course:
    """One look-alike or none; `angle_deg` (n_frames,) is the rotation angle, for what goes with it."""
    name = "none" if rng.random() < 0.45 else str(rng.choice(LOOK_ALIKES[1:]))
    time = np.arange(n_frames) / n_frames
    start, length = rng.uniform(0.1, 0.6), rng.uniform(0.15, 0.4)
    ramp = np.clip((time - start) / length, 0.0, 1.0)
    bump = np.clip(np.minimum((time - start) / (0.2 * length), (start + length - time) / (0.2 * length)), 0.0, 1.0)
    nothing, one = np.zeros(n_frames), np.ones(n_frames)
    brightness = one * np.exp(0.02 * rng.normal(size=n_frames))  # flux from shot to shot
    background, ice, second, present = one, nothing, nothing, np.ones(n_frames, dtype=bool)
    match name:
        case "leaving":
            brightness = brightness * (1.0 - rng.uniform(0.3, 0.99) * ramp)
        case "plate":
            phase = np.deg2rad(angle_deg) - rng.uniform(0, np.pi)
            brightness = brightness * (1.0 - rng.uniform(0.3, 0.85) * np.cos(phase) ** 2)
        case "flux_dips":
            brightness = brightness * (1.0 - rng.uniform(0.3, 0.95) * bump)
        case "top_up":
            period = rng.uniform(0.05, 0.5)
            brightness = brightness * (1.0 - rng.uniform(0.02, 0.15) * np.mod(time / period, 1.0))
        case "missing":
            present = (bump <= 0) & (rng.random(n_frames) > rng.uniform(0.0, 0.3))
            brightness = np.where(rng.random(n_frames) < 0.03, 1e-4, brightness)  # the shutter was late
        case "background":
            background = 1.0 + rng.uniform(0.5, 6.0) * ramp
        case "ice":
            ice = rng.uniform(0.3, 5.0) * ramp
        case "second_lattice":
            second = rng.uniform(0.2, 1.0) * bump
        case "thicker":
            brightness = brightness * (1.0 + rng.uniform(0.5, 3.0) * ramp)
    brightness = brightness * np.exp(_illuminated(rng, np.deg2rad(angle_deg)))
    return Course(look_alike=name, brightness=brightness, background=background, ice=ice, second=second, present=present)


def _illuminated(rng: np.random.Generator, angle: Floats) -> Floats:
    """Logarithm (n_frames,) of the volume in the beam, which goes with the rotation angle (off the axis: once a turn; not round: twice)."""
    once, twice = 0.1 * np.abs(rng.normal(size=2))
    first, second = rng.uniform(0.0, 2.0 * np.pi, 2)
    return np.asarray(once * np.cos(angle - first) + twice * np.cos(2.0 * angle - second))
