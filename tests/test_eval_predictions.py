"""Predictions on disk: what is kept, under which key, and what becomes of damaged files."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from layerctl_train.evaluate.predictions import Predictions, key_of, mark_of

from layerctl import registry
from layerctl.composite import flatten
from layerctl.errors import OutputError
from layerctl.layers import Group, Layer, LayerStack
from layerctl.registry import DecomposeRequest
from layerctl.settings import Settings
from layerctl.source import SourceImage
from layerctl.testing import assert_stacks_equal
from tests.conftest import Halves
from tests.test_colour import rgb_profile

KEY = "ab" + 62 * "0"
FOUR = DecomposeRequest(4)
CLASSIC = registry.load("engines", "classic")
QWEN = registry.load("engines", "qwen")


def noise(height: int, width: int, kind: type[np.uint8] | type[np.uint16] = np.uint8) -> npt.NDArray[np.uint8]:
    largest = np.iinfo(kind).max
    return np.random.default_rng(height * width).integers(0, largest, (height, width, 4), kind, endpoint=True)


def stack() -> LayerStack:
    layers = (
        Layer("Background", noise(12, 20), kind="background"),
        Layer("Ünter \udc80 \x1b[31m", noise(3, 5, np.uint16), left=-2, top=11, opacity=0.3),
        Layer("said", noise(1, 1), left=19, visible=False, kind="text", text="hello\nyou \U0001f600"),
    )
    return LayerStack(20, 12, layers, icc=rgb_profile())


def source(pixels: npt.NDArray[np.uint8] | None = None, icc: bytes | None = None) -> SourceImage:
    return SourceImage(noise(8, 8) if pixels is None else pixels, icc, None, True, "any")


def key(settings: Settings, request: DecomposeRequest = FOUR, picture: SourceImage | None = None) -> str:
    engine = registry.load("engines", settings.engine)
    return key_of(picture or source(), mark_of(engine, settings), request)


def test_what_is_kept_comes_back_as_it_was(tmp_path: Path) -> None:
    predictions = Predictions(tmp_path / "new" / "folder")
    predictions.put(KEY, stack())
    found = predictions.get(KEY)
    assert found is not None
    assert_stacks_equal(found, stack())
    assert found.icc == rgb_profile()
    assert [layer.pixels.dtype for layer in found.walk()] == [np.uint8, np.uint16, np.uint8]


def test_a_stack_without_layers_or_profile_comes_back(tmp_path: Path) -> None:
    predictions = Predictions(tmp_path)
    predictions.put(KEY, LayerStack(7, 5))
    found = predictions.get(KEY)
    assert found is not None
    assert (found.width, found.height, found.layers, found.icc) == (7, 5, (), None)


def test_layers_of_groups_look_as_they_did_in_them(tmp_path: Path) -> None:
    inner = Group("inner", (Layer("faint", noise(6, 6), opacity=0.5),), opacity=0.5)
    grouped = LayerStack(6, 6, (Layer("below", noise(6, 6)), inner, Group("off", (Layer("hidden", noise(6, 6)),), visible=False)))
    predictions = Predictions(tmp_path)
    predictions.put(KEY, grouped)
    found = predictions.get(KEY)
    assert found is not None
    assert [(layer.opacity, layer.visible) for layer in found.walk()] == [(1, True), (0.25, True), (1, False)]
    np.testing.assert_array_equal(flatten(found), flatten(grouped))


def test_what_is_not_there_is_none(tmp_path: Path) -> None:
    assert Predictions(tmp_path / "nowhere").get(KEY) is None


def test_no_damage_goes_unnoticed(tmp_path: Path) -> None:
    predictions = Predictions(tmp_path)
    predictions.put(KEY, stack())
    whole = predictions.path(KEY).read_bytes()
    damaged = [whole[:length] for length in range(0, len(whole), 41)]
    damaged += [whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :] for at in range(0, len(whole), 17)]
    for content in [*damaged, whole + b"\0", b"PK\3\4", b"x" * 500]:
        predictions.path(KEY).write_bytes(content)
        assert predictions.get(KEY) is None
    predictions.put(KEY, stack())
    assert predictions.get(KEY) is not None


def test_nothing_is_left_beside_a_prediction(tmp_path: Path) -> None:
    predictions = Predictions(tmp_path)
    predictions.put(KEY, stack())
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == [predictions.path(KEY).name]


def test_a_folder_that_cannot_be_written_is_told_with_its_name(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match=r"file.* cannot be written to: Not a directory"):
        Predictions(tmp_path / "file").put(KEY, stack())


def test_two_processes_keep_the_same_prediction_at_once(tmp_path: Path) -> None:
    program = (
        "import sys, numpy as np; from pathlib import Path; from layerctl.layers import Layer, LayerStack\n"
        "from layerctl_train.evaluate.predictions import Predictions\n"
        "kept = Predictions(Path(sys.argv[1])); layer = Layer('noise', np.random.default_rng(0).integers(0, 256, (90, 90, 4), np.uint8))\n"
        "for turn in range(40):\n"
        "    kept.put(sys.argv[2], LayerStack(90, 90, (layer,))); assert kept.get(sys.argv[2]) is not None\n"
    )
    running = [subprocess.Popen([sys.executable, "-c", program, str(tmp_path), KEY]) for _ in range(2)]
    assert [process.wait(30) for process in running] == [0, 0]


def test_the_key_changes_with_the_pixels_the_profile_and_the_shape() -> None:
    classic = Settings(engine="classic")
    changed = noise(8, 8).copy()
    changed[7, 7, 3] ^= 1
    pictures = [source(), source(changed), source(icc=rgb_profile()), source(noise(8, 8).reshape(4, 16, 4))]
    assert len({key(classic, picture=picture) for picture in pictures}) == 4
    assert key(classic, picture=source(np.asfortranarray(noise(8, 8)))) == key(classic)


def test_the_key_changes_with_the_engine_its_version_the_kind_and_the_number_of_layers(
    halves: Halves, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = Settings(engine="classic")
    keys = [
        key(settings),
        key(replace(settings, engine="halves")),
        key(replace(settings, kind="photo")),
        key(settings, DecomposeRequest(3)),
        key(settings, DecomposeRequest(None)),
    ]
    monkeypatch.setattr(halves, "version", "2", raising=False)
    keys.append(key(replace(settings, engine="halves")))
    assert len(set(keys)) == len(keys)


def test_an_engine_without_a_model_does_not_care_for_its_settings_and_places() -> None:
    settings = Settings(engine="classic")
    assert key(replace(settings, steps=3, seed=7)) == key(settings)
    assert key(settings, DecomposeRequest(4, index=9)) == key(settings)


def test_a_model_cares_for_all_of_its_settings_and_the_place_of_the_picture(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    settings = Settings(engine="qwen", model=str(tmp_path / "model"))
    others: list[Settings] = [
        replace(settings, preset="qwen"), replace(settings, prompt="a cat"), replace(settings, sampler="heun"), replace(settings, steps=3),
        replace(settings, cfg=2.0), replace(settings, size=64), replace(settings, seed=1), replace(settings, precision="bf16"),
        replace(settings, compile=True), replace(settings, fuse=True),
    ]  # fmt: skip
    keys = {key(settings), key(settings, DecomposeRequest(4, index=1)), *map(key, others)}
    assert len(keys) == 2 + len(others)
    assert key(replace(settings, offload="group", device="cpu", quiet=True)) == key(settings)


def test_a_model_and_an_adapter_go_by_their_content_not_by_where_they_are(tmp_path: Path) -> None:
    def adapter(folder: str, weights: bytes, config: str = "{}") -> Settings:
        place = tmp_path / folder / "cats"
        place.mkdir(parents=True)
        (place / "adapter_model.safetensors").write_bytes(weights)
        (place / "adapter_config.json").write_text(config)
        (place / "log.json").write_text(json.dumps(folder))
        return Settings(engine="qwen", model=str(tmp_path / "model"), adapters=(str(place),))

    (tmp_path / "model").mkdir()
    first = adapter("a", b"1")
    assert key(adapter("b", b"1")) == key(first)
    weighted = replace(first, adapters=(f"{first.adapters[0]}:0.5",))
    assert len({key(first), key(weighted), key(adapter("c", b"2")), key(adapter("d", b"1", '{"lora_alpha": 2}'))}) == 4
    before = key(first)
    (tmp_path / "model" / "weights.safetensors").write_bytes(b"3")
    assert key(first) != before
