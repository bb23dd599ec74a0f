from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions, version
from pathlib import Path

import pytest

from layerctl import __version__
from layerctl.decompose import RECORDED_VERSIONS

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
PINS = dict(re.findall(r"^([\w-]+)==([^;\s]+)", (ROOT / "constraints.txt").read_text(encoding="utf-8"), re.MULTILINE))


def names(requirements: list[str]) -> set[str]:
    return {re.split(r"[\[<>=!~; ]", requirement)[0].lower().replace("_", "-") for requirement in requirements}


def test_the_installed_distribution_has_the_version_of_the_package() -> None:
    assert version("layerctl") == __version__


def test_the_base_install_needs_no_torch() -> None:
    base = names(PROJECT["dependencies"])
    assert not base & names([entry for extra in ("qwen", "judge", "train", "ray") for entry in PROJECT["optional-dependencies"][extra]])


def test_the_manifest_records_versions_of_base_dependencies_only() -> None:
    assert set(RECORDED_VERSIONS) <= names(PROJECT["dependencies"])


def test_everything_that_is_tested_with_is_pinned() -> None:
    extras = [entry for extra in ("dev", "quant", "qwen", "judge") for entry in PROJECT["optional-dependencies"][extra]]
    needed = names(PROJECT["dependencies"]) | names(extras) - {"layerctl"}
    assert needed <= names(list(PINS))


def test_the_packages_import_nothing_that_no_extra_of_users_brings() -> None:
    extras = [entry for extra, entries in PROJECT["optional-dependencies"].items() if extra != "dev" for entry in entries]
    # What transformers and datasets themselves hand out.
    declared = names(PROJECT["dependencies"]) | names(extras) | {"layerctl", "tokenizers", "fsspec"}
    owners = {module: {name.lower().replace("_", "-") for name in found} for module, found in packages_distributions().items()}
    imported: dict[str, Path] = {}
    for folder in ("layerctl", "train/layerctl_train", "exporters/layerctl_exporters"):
        for file in (ROOT / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
                modules = [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else []
                modules += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
                imported |= {module.partition(".")[0]: file.relative_to(ROOT) for module in modules}
    own = {"layerctl", "layerctl_train", "layerctl_exporters", *sys.stdlib_module_names}
    others = {module: owners.get(module, {module.replace("_", "-")}) for module in imported.keys() - own}
    assert {module: str(imported[module]) for module, owner in others.items() if not owner & declared} == {}


def test_psd_tools_is_the_version_whose_internals_are_known() -> None:
    assert "psd-tools==1.26.0" in PROJECT["dependencies"]
    assert PINS["psd-tools"] == "1.26.0"


def test_torch_is_the_build_without_cuda_where_there_is_a_choice() -> None:
    assert PINS["torch"] == "2.13.0"
    assert 'torch==2.13.0+cpu; sys_platform == "linux"' in (ROOT / "constraints.txt").read_text(encoding="utf-8")


def test_modules_of_the_working_folder_do_not_shadow_ours(tmp_path: Path) -> None:
    for name in ("train", "exporters", "commands", "engines"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('imported from the working folder')")
    code = "import layerctl, layerctl_train, layerctl_exporters.png, layerctl_exporters.psd, layerctl.engines"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("target", ["demo", "test", "check", "fix"])
def test_the_targets_that_the_documents_name_are_there(target: str) -> None:
    assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
