"""The Qwen-Image-Layered engine: the model in parts, its sampler, and adapters."""

from layerctl.engines.qwen.engine import ENGINE

__all__ = ["ENGINE"]
