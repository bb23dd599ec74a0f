"""The embedded engine: classical image processing, an OCR library and a small network, on the CPU."""

from layerctl.engines.classic.engine import ENGINE

__all__ = ["ENGINE"]
