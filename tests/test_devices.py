from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch

from layerctl.engines.qwen import devices
from layerctl.engines.qwen.devices import Device, Machine, dtype_for, find_machine, matrix_rate
from layerctl.errors import UsageError


@pytest.mark.parametrize("module", ["devices", "memory", "sizes"])
def test_nothing_of_the_plan_imports_torch(module: str) -> None:
    code = f"import sys, layerctl.engines.qwen.{module}; print([name for name in ('torch', 'numpy', 'diffusers') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.skipif(torch.cuda.is_available() or torch.backends.mps.is_available(), reason="this machine has an accelerator")
def test_a_machine_without_an_accelerator_is_its_cpu_and_another_wish_is_refused() -> None:
    machine = find_machine()
    assert machine.device == "cpu"
    assert 0 < machine.device_free == machine.host_free <= machine.host_total
    assert dict(machine.libraries)["torch"] == torch.__version__
    assert machine.missing == ()
    with pytest.raises(UsageError, match="there is no device cuda here") as caught:
        find_machine("cuda")
    assert caught.value.hint == "this machine has: cpu"


def test_an_unknown_device_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match="there is no device 'tpu'"):
        find_machine("tpu")


@pytest.mark.gpu
def test_a_cuda_card_is_found_with_its_memory() -> None:
    machine = find_machine()
    assert machine.device == "cuda"
    assert 0 < machine.device_free <= machine.device_total
    assert matrix_rate(machine) > 1e12


@pytest.mark.parametrize(
    ("device", "precision", "stored", "dtype"),
    [
        ("cuda", "auto", "bf16", torch.bfloat16),
        ("cuda", "auto", "fp32", torch.bfloat16),
        ("cuda", "int4", "bf16", torch.bfloat16),
        ("cuda", "fp32", "bf16", torch.float32),
        ("mps", "auto", "fp32", torch.bfloat16),
        ("cpu", "auto", "bf16", torch.bfloat16),
        ("cpu", "auto", "fp32", torch.float32),
        ("cpu", "fp32", "bf16", torch.float32),
        ("cpu", "bf16", "fp32", torch.bfloat16),
        ("cpu", "int8", "fp32", torch.bfloat16),
    ],
)
def test_the_type_that_is_computed_in(device: Device, precision: str, stored: str, dtype: torch.dtype) -> None:
    assert getattr(torch, dtype_for(device, precision, stored)) is dtype


def test_what_the_extra_would_bring_is_missing_and_what_is_optional_is_not() -> None:
    machine = Machine("cpu", "", 0, 0, 0, 0, (("torch", None), ("peft", "1"), ("torchao", None)))
    assert machine.missing == ("torch",)


def test_the_matrix_rate_is_measured() -> None:
    assert 1e8 < matrix_rate(find_machine("cpu")) < 1e15


@pytest.mark.skipif(sys.platform != "linux", reason="reads what Linux says of its memory")
def test_memory_is_known_without_psutil_too(monkeypatch: pytest.MonkeyPatch) -> None:
    known, _ = devices._host_memory()
    monkeypatch.setitem(sys.modules, "psutil", None)
    total, free = devices._host_memory()
    assert total == known
    assert 0 < free <= total
    assert total <= os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
