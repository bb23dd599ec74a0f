"""For tests of layerctl and of plugins: one comparison of stacks, scenes whose layers are known, a tiny checkpoint of the real classes.

`python -m layerctl.testing tiny-checkpoint DIR` writes that checkpoint; `--model DIR` takes it wherever the real one goes.
"""

from layerctl.testing.stacks import OPACITY_STEP, assert_stacks_equal, scene, specimen

__all__ = ["OPACITY_STEP", "assert_stacks_equal", "scene", "specimen"]
