"""layerctl: a flat picture becomes editable layers."""

__version__ = "0.1.0"
