"""The machine that the model would run on, and what differs between CUDA, Apple's MPS and the CPU; needs no torch to be imported.

Random numbers are drawn on the CPU whatever the device, `torch.Generator("cpu")`, and moved: each kind of device has a generator of its
own, and the same seed would give other layers on another machine.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal

from layerctl.errors import MissingDependencyError, UsageError

Device = Literal["cuda", "mps", "cpu"]
Dtype = Literal["float32", "bfloat16"]

DEVICES: tuple[Device, ...] = ("cuda", "mps", "cpu")
"""From the most wanted to the least."""

DRIVER_FILES = ("/dev/nvidiactl", "/dev/nvidia0", "/dev/dxg", "/dev/kfd", r"C:\Windows\System32\nvcuda.dll")
"""What NVIDIA's and AMD's drivers make known, on Linux, in its Windows subsystem and on Windows."""

INSTALL = "pip install 'layerctl[qwen]'"
REQUIRED = ("torch", "diffusers", "transformers", "accelerate", "peft", "safetensors")
OPTIONAL = ("torchao",)
"""What 8-bit and 4-bit weights need."""

INSTALL_OPTIONAL = "pip install 'layerctl[quant]'"


@dataclass(frozen=True, slots=True)
class Machine:
    """What the model could use; bytes, 0 where they are not known.

    On MPS and the CPU device and host memory are the same memory. `libraries`: names and versions, None for one that is missing.
    """

    device: Device
    name: str
    device_total: int
    device_free: int
    host_total: int
    host_free: int
    libraries: tuple[tuple[str, str | None], ...] = ()
    remarks: tuple[str, ...] = ()

    @property
    def missing(self) -> tuple[str, ...]:
        """What the extra [qwen] would bring."""
        return tuple(name for name, found in self.libraries if found is None and name in REQUIRED)


def find_machine(device: str = "auto") -> Machine:
    """The machine as it is now, on the best device that works here or on the one that is asked for.

    Raises UsageError for a device that is not here, MissingDependencyError when another than the CPU is asked for without torch.
    """
    if device not in ("auto", *DEVICES):
        raise UsageError(f"there is no device {device!r}", hint=f"choose one of: auto, {', '.join(DEVICES)}")
    libraries = tuple((name, _version(name)) for name in (*REQUIRED, *OPTIONAL))
    host_total, host_free = _host_memory()
    cpu = Machine("cpu", platform.processor() or platform.machine(), host_total, host_free, host_total, host_free, libraries)
    if dict(libraries)["torch"] is None:
        if device not in ("auto", "cpu"):
            raise MissingDependencyError(f"torch is not installed, which the device {device} needs", hint=INSTALL)
        return replace(cpu, remarks=("torch is not installed, so no graphics card was looked for",))
    import torch

    works: dict[Device, bool] = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    chosen = next((name for name in DEVICES if works[name] and device in ("auto", name)), None)
    if chosen is None:
        raise UsageError(
            f"there is no device {device} here", hint=f"this machine has: {', '.join(name for name in DEVICES if works[name])}"
        )
    if chosen == "cuda":
        free, total = torch.cuda.mem_get_info()
        return Machine("cuda", torch.cuda.get_device_name(), total, free, host_total, host_free, libraries)
    if chosen == "mps":
        # Beyond this share of the memory macOS begins to swap, or ends the process.
        total = torch.mps.recommended_max_memory()
        free = min(total - torch.mps.driver_allocated_memory(), host_free or total)
        return Machine("mps", "Apple GPU", total, free, host_total, host_free, libraries)
    return cpu


def may_have_accelerator() -> bool:
    """Whether the system shows a device that torch could use, told in no time and without torch."""
    if platform.system() == "Darwin":
        return platform.machine() == "arm64"
    return any(Path(file).exists() for file in DRIVER_FILES)


def dtype_for(device: Device, precision: str, stored: str) -> Dtype:
    """The type that the network computes in, as torch names it. `stored`: what the weights' files hold, "fp32" or "bf16".

    float16 is in no row: the model's activations leave its range.
    """
    if precision == "fp32" or (device == "cpu" and precision == "auto" and stored == "fp32"):
        return "float32"
    return "bfloat16"


def matrix_rate(machine: Machine) -> float:
    """Multiplications and additions a second in a large product of matrices, measured here in a fraction of a second."""
    import torch

    dtype = getattr(torch, dtype_for(machine.device, "auto", "bf16"))
    side = {"cuda": 8192, "mps": 4096, "cpu": 1024}[machine.device]
    generator = torch.Generator(machine.device).manual_seed(0)
    a = torch.randn(side, side, generator=generator, device=machine.device, dtype=dtype)
    waits: dict[Device, Callable[[], object]] = {"cuda": torch.cuda.synchronize, "mps": torch.mps.synchronize, "cpu": lambda: None}
    wait = waits[machine.device]
    a @ a
    wait()
    products, begun = 0, time.perf_counter()
    while products == 0 or time.perf_counter() - begun < 0.2:
        a @ a
        wait()
        products += 1
    return 2 * side**3 * products / (time.perf_counter() - begun)


def _version(library: str) -> str | None:
    try:
        return version(library)
    except PackageNotFoundError:
        return None


def _host_memory() -> tuple[int, int]:
    """Total and available bytes, no more than a container's limit; 0, 0 where only psutil could tell and is missing."""
    try:
        memory = import_module("psutil").virtual_memory()
        total, free = int(memory.total), int(memory.available)
    except ModuleNotFoundError:
        lines = _read(Path("/proc/meminfo")).splitlines()
        known = {line.partition(":")[0]: int(line.split()[1]) * 1024 for line in lines if line}
        total, free = known.get("MemTotal", 0), known.get("MemAvailable", 0)
    limit, used = _read(Path("/sys/fs/cgroup/memory.max")).strip(), _read(Path("/sys/fs/cgroup/memory.current")).strip()
    if limit.isdecimal() and used.isdecimal() and int(limit) < total:
        total, free = int(limit), min(free, max(int(limit) - int(used), 0))
    return total, free


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.exists() else ""
