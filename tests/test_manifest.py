from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from layerctl.errors import InputError
from layerctl.manifest import (
    MANIFEST_NAME,
    CandidateRecord,
    FaultRecord,
    FidelityRecord,
    FileRecord,
    InputRecord,
    JudgeRecord,
    LayerRecord,
    Manifest,
    QualityRecord,
    RepairRecord,
    from_json,
    hash_file,
    is_result,
    to_json,
)

LAYER = LayerRecord(0, "Hintergrund – 背景 🐈", "Gruppe", "background", None, (0, -2, 30, 20), 0.5, "layers/00-hintergrund.png", "ab" * 32)
MANIFEST = Manifest(
    input=InputRecord("../photo.jpg", "cd" * 32, 30, 20),
    engine="classic",
    engine_version="1",
    settings={"layers": 4, "formats": ["psd", "png"], "masks": False},
    engine_settings={"proposal": "photo", "score": 0.75},
    layers=(LAYER,),
    recomposition_error=1,
    fidelity=FidelityRecord(3.5, 20.0, 0.0, -0.5, 2.0),
    quality=QualityRecord(0.7, 0.9, 0.8, 0.7, 0.6, 0.5, (FaultRecord("halo", ("one", "two"), 0.4, "a rim"),)),
    candidates=(CandidateRecord(0, 0.35, 0.7, 0.9, 0.8, 0.7, 0.6, 0.5, 0.5, chosen=True, reward=7.25),),
    judge=JudgeRecord("openai", "a model", "ab12", 3.5, None, ""),
    repairs=(RepairRecord("Layer 3", "blank", None),),
    warnings=("few layers found",),
    copyright="© A. Person",
    versions={"numpy": "2.4.6"},
    files=(FileRecord("preview.png", "ef" * 32),),
)


def test_a_manifest_comes_back_from_its_json_as_it_was() -> None:
    assert from_json(to_json(MANIFEST)) == MANIFEST


def test_the_json_of_a_manifest_that_was_read_is_the_same_bytes() -> None:
    data = to_json(MANIFEST)
    assert to_json(from_json(data)) == data


@given(st.text(st.characters(codec=None), max_size=20))
def test_any_name_survives_even_bytes_that_are_no_text(name: str) -> None:
    manifest = replace(MANIFEST, input=replace(MANIFEST.input, path=name))
    data = to_json(manifest)
    assert data.decode("utf-8")
    assert from_json(data).input.path == name


def test_a_value_that_was_changed_by_hand_breaks_the_seal() -> None:
    data = to_json(MANIFEST).replace(b'"few layers found"', b'"many layers found"')
    assert to_json(from_json(data)) != data


def test_a_newer_schema_is_an_error_that_names_both() -> None:
    fields = json.loads(to_json(MANIFEST)) | {"schema": 99}
    with pytest.raises(InputError, match=r"schema 99, this layerctl reads 2 and 3"):
        from_json(json.dumps(fields).encode())


def test_a_manifest_of_the_schema_before_the_judge_is_read_and_its_seal_holds() -> None:
    older = replace(MANIFEST, judge=None, candidates=(replace(MANIFEST.candidates[0], reward=None),), schema=2)
    data = to_json(older)
    fields = json.loads(data)
    assert "judge" not in fields
    assert "reward" not in fields["candidates"][0]
    assert from_json(data) == older
    assert to_json(from_json(data)) == data


def test_a_manifest_of_the_schema_with_a_judge_has_to_hold_one() -> None:
    fields = json.loads(to_json(MANIFEST))
    del fields["judge"]
    with pytest.raises(InputError, match="damaged"):
        from_json(json.dumps(fields).encode())


def test_a_result_without_a_judge_says_so() -> None:
    manifest = replace(MANIFEST, judge=None)
    assert json.loads(to_json(manifest))["judge"] is None
    assert from_json(to_json(manifest)) == manifest


@pytest.mark.parametrize("data", [b"", b"[]", b'{"name": "a web page"}', b"\xff\xfe", to_json(MANIFEST)[:200]])
def test_what_is_no_manifest_is_an_error_that_names_the_file(data: bytes) -> None:
    with pytest.raises(InputError, match=r"x/manifest\.json"):
        from_json(data, "x/manifest.json")


@pytest.mark.parametrize("missing", ["layers", "input", "seal", "files"])
def test_a_manifest_without_a_field_is_damaged(missing: str) -> None:
    fields = json.loads(to_json(MANIFEST))
    del fields[missing]
    with pytest.raises(InputError, match="damaged"):
        from_json(json.dumps(fields).encode())


def test_a_folder_with_the_manifest_of_another_program_is_no_result(tmp_path: Path) -> None:
    (tmp_path / MANIFEST_NAME).write_text('{"manifest_version": 3}')
    assert not is_result(tmp_path)
    (tmp_path / MANIFEST_NAME).write_bytes(to_json(MANIFEST)[:100])
    assert is_result(tmp_path)


def test_a_file_hash_is_the_sha256_of_its_bytes(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    assert hash_file(tmp_path / "a") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
