"""The embedded engine: classical image processing with a small network, on the CPU."""
