#!/usr/bin/python3
"""Writes dxtbx_resolution.json: what dxtbx says of resolution at pixels, and of the geometry of real CBF files.

Run with an interpreter that has dxtbx (Debian's `dials` package: /usr/bin/python3), from the repository root:

    /usr/bin/python3 tests/golden/make_dxtbx_resolution.py FIXTURES/real

dxtbx's laboratory has z from the sample to the source; ours has z along the beam. A half turn about x joins them, (x, y, z) -> (x, -y, -z),
and the vectors below are written in OUR frame. dxtbx's correction for parallax in the sensor is switched off: we have none.
"""

import json
import shutil
import sys
import tempfile
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import dxtbx
from dxtbx.model import BeamFactory, Panel, SimplePxMmStrategy
from scitbx.matrix import col

OUT = Path(__file__).with_name("dxtbx_resolution.json")
CBF_FILES = (
    "DLS_I03_smargon_0001.cbf.gz",
    "dlsnxs2cbf_therm_0001.cbf.gz",
    "run2_1_00148.cbf.bz2",
    "ximg2700_00001.cbf",
    "ximg2701_00001.cbf",
    "omega_scan.cbf",
)


def turned(vector):
    x, y, z = vector
    return [x, -y, -z]


def rotated(vector, axis, angle_deg):
    return list(col(vector).rotate_around_origin(col(axis), angle_deg, deg=True))


def panel_of(fast, slow, origin, pixel_mm, shape_px):
    panel = Panel()
    panel.set_local_frame(turned(fast), turned(slow), turned(origin))
    panel.set_pixel_size((pixel_mm[1], pixel_mm[0]))
    panel.set_image_size((shape_px[1], shape_px[0]))
    return panel


def resolutions(panel, beam, positions_px):
    """Resolution at outer-corner pixel positions (slow, fast)."""
    return [panel.get_resolution_at_pixel(beam.get_s0(), (fast, slow)) for slow, fast in positions_px]


def described(name, panel, wavelength_A, pixel_mm, shape_px):
    beam = BeamFactory.simple(wavelength_A)
    fast, slow = panel.get_beam_centre(beam.get_s0())
    positions = [[f * shape_px[0], g * shape_px[1]] for f in (0.0, 0.13, 0.5, 1.0) for g in (0.02, 0.61, 0.97)]
    return {
        "name": name,
        "wavelength_A": wavelength_A,
        "pixel_mm": list(pixel_mm),
        "shape_px": list(shape_px),
        "fast_axis": turned(panel.get_fast_axis()),
        "slow_axis": turned(panel.get_slow_axis()),
        "origin_mm": turned(panel.get_origin()),
        "distance_mm": panel.get_distance(),
        "beam_px": [slow / pixel_mm[0], fast / pixel_mm[1]],
        "positions_px": positions,
        "resolution_A": resolutions(panel, beam, positions),
    }


def explicit_panels():
    """A perpendicular detector, one tilted about both axes, and one swung by 30 deg in two-theta."""
    fast, slow, origin = [1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [-77.1, -81.2, 150.0]
    pixel, shape = (0.075, 0.075), (2167, 2070)
    yield described("perpendicular", panel_of(fast, slow, origin, pixel, shape), 0.9795, pixel, shape)
    tilt = [rotated(rotated(v, (1, 0, 0), 3.0), (0, 1, 0), -2.0) for v in (fast, slow, origin)]
    yield described("tilted", panel_of(*tilt, pixel, shape), 0.9795, pixel, shape)
    swing = [rotated(v, (0, 1, 0), 30.0) for v in (fast, slow, origin)]
    yield described("swung", panel_of(*swing, (0.1, 0.075), shape), 1.3, (0.1, 0.075), shape)
    mirrored = [[-1.0, 0.0, 0.0], [0.0, -1.0, 0.0], [80.0, 70.0, 300.0]]
    yield described("turned by 180 deg", panel_of(*mirrored, pixel, shape), 0.7, pixel, shape)


def read_file(path):
    """What dxtbx reads of one CBF file; copied to a name with a number where it wants one."""
    with tempfile.TemporaryDirectory() as folder:
        if not any(c.isdigit() for c in path.name):
            copy = Path(folder) / f"{path.stem}_0001{path.suffix}"
            shutil.copy(path, copy)
            path = copy
        image = dxtbx.load(str(path))
        panel, beam, scan = image.get_detector()[0], image.get_beam(), image.get_scan()
        panel.set_px_mm_strategy(SimplePxMmStrategy())
        width, height = panel.get_image_size()
        pixel = panel.get_pixel_size()[1], panel.get_pixel_size()[0]
        found = described(path.name, panel, beam.get_wavelength(), pixel, (height, width))
        found["oscillation_deg"] = list(scan.get_oscillation())
        found["rotation_axis"] = turned(image.get_goniometer().get_rotation_axis())
        found["exposure_s"] = scan.get_exposure_times()[0]
        found["overload"] = panel.get_trusted_range()[1]
        return found


def main():
    folder = Path(sys.argv[1])
    golden = {"dxtbx": _version(), "panels": list(explicit_panels()), "files": {n: read_file(folder / n) for n in CBF_FILES}}
    OUT.write_text(json.dumps(golden, indent=1) + "\n")
    print("wrote", OUT)


def _version():
    try:
        return version("dxtbx")
    except PackageNotFoundError:
        return "unknown (Debian)"


if __name__ == "__main__":
    main()
