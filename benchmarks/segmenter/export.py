"""Write a training checkpoint as the ONNX file that the embedded engine ships: `python -m benchmarks.segmenter.export CHECKPOINT [OUT]`.

Needs the package onnx besides the dev extra. Weights are stored as float16 and computed in float32. Prints the largest difference between
the two on random pictures.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch

from benchmarks.segmenter.net import Segmenter

TARGET = Path(__file__).resolve().parents[2] / "layerctl" / "engines" / "classic" / "segmenter.onnx"


def main() -> None:
    checkpoint, target = Path(sys.argv[1]), Path(sys.argv[2]) if len(sys.argv) > 2 else TARGET
    model = Segmenter().eval()
    state = torch.load(checkpoint, weights_only=True)
    model.load_state_dict(state["average"])
    sample = torch.rand(1, 3, 256, 320)
    axes = {"picture": {2: "height", 3: "width"}, "maps": {2: "rows", 3: "columns"}}
    torch.onnx.export(
        model, (sample,), str(target), dynamo=False, input_names=["picture"], output_names=["maps"], dynamic_axes=axes, opset_version=17
    )
    _halve(target)
    session = onnxruntime.InferenceSession(str(target), providers=["CPUExecutionProvider"])
    with torch.no_grad():
        ours = model(sample).numpy()
    theirs = session.run(None, {"picture": sample.numpy()})[0]
    print(f"{target}: step {state['step']}, {target.stat().st_size / 1e6:.1f} MB, largest difference {np.abs(ours - theirs).max():.4f}")


def _halve(path: Path) -> None:
    """Store every large float32 weight as float16 behind a cast, which the runtime folds away on loading."""
    model = onnx.load(str(path))
    casts = []
    for weight in model.graph.initializer:
        if weight.data_type == onnx.TensorProto.FLOAT and np.prod(weight.dims) > 256:
            values = onnx.numpy_helper.to_array(weight).astype(np.float16)
            name = weight.name
            weight.CopyFrom(onnx.numpy_helper.from_array(values, name + "_half"))
            casts.append(onnx.helper.make_node("Cast", [name + "_half"], [name], to=onnx.TensorProto.FLOAT))
    for cast in reversed(casts):
        model.graph.node.insert(0, cast)
    onnx.save(model, str(path))


if __name__ == "__main__":
    main()
