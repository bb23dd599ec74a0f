from __future__ import annotations

from pathlib import Path

import pytest

from layerctl.engines import choice
from layerctl.engines.choice import with_engine
from layerctl.engines.qwen import devices
from layerctl.errors import UsageError
from layerctl.settings import Settings


@pytest.fixture(autouse=True)
def machine_with_a_driver_and_no_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(devices, "DRIVER_FILES", (str(tmp_path),))
    monkeypatch.setattr("platform.system", lambda: "Linux")


def test_an_engine_that_is_named_is_taken() -> None:
    assert with_engine(Settings(engine="classic"), []) == (Settings(engine="classic"), None)
    assert with_engine(Settings(engine="halves"), []) == (Settings(engine="halves"), None)


def test_auto_without_weights_is_the_embedded_engine_and_says_what_to_type() -> None:
    settings, remark = with_engine(Settings(), [])
    assert settings.engine == "classic"
    assert remark is not None
    assert remark.startswith("engine classic: Qwen/Qwen-Image-Layered")
    assert "layerctl pull Qwen/Qwen-Image-Layered" in remark


def test_auto_without_the_extra_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choice, "EXTRA", ("no_such_package",))
    settings, remark = with_engine(Settings(), [])
    assert (settings.engine, remark) == ("classic", "engine classic: the engine qwen needs no_such_package; pip install 'layerctl[qwen]'")


def test_auto_with_weights_and_no_gpu_is_the_embedded_engine(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("torch.backends.mps.is_available", lambda: False)
    settings, remark = with_engine(Settings(model=str(tiny)), [])
    assert settings.engine == "classic"
    assert remark == f"engine classic: {choice.NO_ACCELERATOR}"


def test_auto_without_a_driver_speaks_of_nothing_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "DRIVER_FILES", ("/no/such/device",))
    monkeypatch.setattr(choice, "EXTRA", ("no_such_package",))
    assert with_engine(Settings(), [])[1] == f"engine classic: {choice.NO_ACCELERATOR}"


def test_auto_with_all_there_is_the_strong_engine(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.mem_get_info", lambda: (80 << 30, 80 << 30))
    monkeypatch.setattr("torch.cuda.get_device_name", lambda: "a card")
    assert with_engine(Settings(model=str(tiny)), []) == (Settings(model=str(tiny), engine="qwen"), None)


@pytest.mark.parametrize("flag", ["model", "adapters"])
def test_naming_a_model_or_an_adapter_asks_for_the_strong_engine(flag: str) -> None:
    assert with_engine(Settings(), [flag]) == (Settings(engine="qwen"), None)


def test_the_embedded_engine_refuses_what_it_cannot_heed() -> None:
    with pytest.raises(UsageError, match="--adapter has no meaning for the engine classic"):
        with_engine(Settings(engine="classic"), ["adapters"])
    with pytest.raises(UsageError, match="--steps is for the engine qwen, and Qwen/Qwen-Image-Layered at") as caught:
        with_engine(Settings(), ["steps"])
    assert "--engine qwen" in str(caught.value.hint)
