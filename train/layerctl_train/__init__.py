"""Training of adapters for the engines."""
