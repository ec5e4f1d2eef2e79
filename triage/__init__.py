"""Early red flags for X-ray diffraction frames."""

__version__ = "0.1.0"
