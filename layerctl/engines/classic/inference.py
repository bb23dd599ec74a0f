"""ONNX models on the CPU, all opened in the same way."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

THREADS = 4


def open_model(model: bytes) -> InferenceSession:
    """A session for the content of an ONNX file: at most THREADS threads, which sleep while they wait, and no memory kept between runs."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.enable_cpu_mem_arena = False
    options.intra_op_num_threads, options.inter_op_num_threads = min(THREADS, os.cpu_count() or 1), 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
