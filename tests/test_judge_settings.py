"""The judge's settings: ranges, endpoints without credentials, and keys that are no settings."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import layerctl.judge_settings
from layerctl.errors import ConfigError, UsageError
from layerctl.judge_settings import KEY_VARIABLE
from layerctl.settings import Settings, resolve_settings


def resolved(folder: Path, environ: dict[str, str] | None = None, *, user: str = "", **flags: Any) -> Settings:
    file = folder / "config" / "layerctl" / "config.toml"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(user, encoding="utf-8")
    return resolve_settings(flags, folder=folder, environ={"XDG_CONFIG_HOME": str(folder / "config")} | (environ or {}))


def test_every_field_of_the_judge_has_a_docstring() -> None:
    tree = ast.parse(Path(layerctl.judge_settings.__file__).read_text(encoding="utf-8"))
    body = next(node.body for node in tree.body if isinstance(node, ast.ClassDef))
    for entry, following in zip(body, [*body[1:], None], strict=True):
        if isinstance(entry, ast.AnnAssign):
            assert isinstance(following, ast.Expr), f"{ast.unparse(entry)} has no docstring"


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("judge_orders", "9"), ("judge_orders", "-1"), ("judge_blend", "1.1"), ("judge_blend", "nan"), ("judge_min_agreement", "-2"),
        ("judge_side", "64"), ("judge_grid_side", "8000"), ("judge_temperature", "3"), ("judge_max_tokens", "0"),
        ("judge_concurrency", "0"), ("judge_timeout", "0"), ("judge_timeout", "inf"), ("judge_retries", "21"), ("max_judge_calls", "-1"),
        ("max_judge_cost", "-0.1"), ("max_judge_cost", "inf"), ("judge_condition", "everything"), ("judge_chance", "2"),
        ("judge_weights", "1,1,1,1"), ("judge_weights", "0,0,0,0,0"), ("judge_weights", "1,1,1,1,-1"), ("judge_weights", "1,1,1,1,nan"),
        ("judge_weights", [1, 1, 1, 1, True]), ("judge_extra", "[1]"), ("judge_extra", "{"), ("judge_extra", 7),
        ("judge_prices", "name"), ("judge_prices", "=1,2"), ("judge_prices", "name=1"), ("judge_prices", "name=1,2,3"),
        ("judge_prices", "name=1,-2"), ("judge_prices", "name=1,nan"), ("judge_prices", ["a=1,2", "a=2,3"]), ("judge_prices", []),
        ("judge_key_env", "MY-KEY"), ("judge_key_env", ""), ("judge_key_file", " "),
    ],
)  # fmt: skip
def test_a_value_that_makes_no_sense_is_refused_with_an_example(tmp_path: Path, key: str, value: object) -> None:
    flag = {"judge_prices": "judge-price"}.get(key, key.replace("_", "-"))
    flags: dict[str, Any] = {key: value}
    with pytest.raises(UsageError, match=f"^--{flag}") as caught:
        resolved(tmp_path, **flags)
    assert str(caught.value.hint).startswith("give ")


@pytest.mark.parametrize("value", ["1, 2, 0, 0.5, 1", [1, 2, 0, 0.5, 1]])
def test_weights_are_a_list_or_numbers_with_commas(tmp_path: Path, value: object) -> None:
    assert resolved(tmp_path, judge_weights=value).judge_weights == (1, 2, 0, 0.5, 1)


def test_prices_are_repeated_and_a_models_name_may_hold_anything(tmp_path: Path) -> None:
    listed = ("org/model=v2:free=0.10,0.40", "other=0,0")
    assert resolved(tmp_path, judge_prices=listed).judge_prices == listed
    assert resolved(tmp_path, {"LAYERCTL_JUDGE_PRICES": "a=1,2"}).judge_prices == ("a=1,2",)


def test_what_is_added_to_requests_may_be_a_table_of_toml(tmp_path: Path) -> None:
    user = "judge_extra = { chat_template_kwargs = { enable_thinking = false } }"
    assert resolved(tmp_path, user=user).judge_extra == '{"chat_template_kwargs": {"enable_thinking": false}}'


@pytest.mark.parametrize("url", ["http://localhost:8000/v1", "https://[::1]:80/v1/", "HTTPS://example.org"])
def test_a_url_has_a_scheme_and_a_host(tmp_path: Path, url: str) -> None:
    assert resolved(tmp_path, judge_url=url).judge_url == url.rstrip("/")


@pytest.mark.parametrize(
    "url",
    ["localhost:8000/v1", "ftp://host", "file:///etc/passwd", "http://", "http://host:99999", "http://a b/", "http:/host", "http://h\\i"],
)
def test_a_url_of_another_kind_is_refused_by_its_name(tmp_path: Path, url: str) -> None:
    with pytest.raises(UsageError, match="does not begin with http:// or https:// and a host") as caught:
        resolved(tmp_path, judge_url=url)
    assert repr(url.rstrip("/")) in caught.value.message


@pytest.mark.parametrize("url", ["https://me:sesame@host/v1", "https://sesame@host", "https://host/v1?key=sesame", "https://host/#sesame"])
def test_credentials_in_a_url_are_refused_and_not_repeated(tmp_path: Path, url: str) -> None:
    with pytest.raises(UsageError, match="no setting holds credentials") as caught:
        resolved(tmp_path, judge_url=url)
    assert "sesame" not in f"{caught.value.message} {caught.value.hint}"


def test_a_key_in_place_of_its_variables_name_is_not_repeated(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="not the name of a variable") as caught:
        resolved(tmp_path, user="judge_key_env = 'sk-sesame'")
    assert "sesame" not in f"{caught.value.message} {caught.value.hint}"
    (tmp_path / "layerctl.toml").write_text("judge_key_env = 'hf_sesame'")
    with pytest.raises(ConfigError, match="sets judge_key_env, which decides where pictures and keys go") as caught:
        resolved(tmp_path)
    assert "sesame" not in f"{caught.value.message} {caught.value.hint}"


@pytest.mark.parametrize("key", ["judge_key", "judge_api_key", "openai_key", "api-key", "judge_token", "password"])
def test_a_key_in_a_file_is_an_unknown_setting_and_told_where_to_go(tmp_path: Path, key: str) -> None:
    with pytest.raises(ConfigError, match="is no setting") as caught:
        resolved(tmp_path, user=f"{key} = 'sesame'")
    assert caught.value.hint == f"keys are no settings: put it into the variable {KEY_VARIABLE}, or into a file that judge_key_file names"
    assert "sesame" not in caught.value.message


def test_the_variable_that_holds_the_key_is_no_setting(tmp_path: Path) -> None:
    assert resolved(tmp_path, {KEY_VARIABLE: "sesame"}) == Settings()
    with pytest.raises(ConfigError, match="the variable LAYERCTL_JUDGE_KEY_2 is no setting"):
        resolved(tmp_path, {"LAYERCTL_JUDGE_KEY_2": "sesame"})


@pytest.mark.parametrize("place", ["flag", "file", "variable"])
def test_another_variable_that_is_named_for_the_key_is_no_setting_either(tmp_path: Path, place: str) -> None:
    name = "LAYERCTL_OTHER_KEY"
    environ = {name: "sesame"} | ({"LAYERCTL_JUDGE_KEY_ENV": name} if place == "variable" else {})
    user = f"judge_key_env = '{name}'" if place == "file" else ""
    flags = {"judge_key_env": name} if place == "flag" else {}
    assert resolved(tmp_path, environ, user=user, **flags).judge_key_env == name
    with pytest.raises(ConfigError, match="the variable LAYERCTL_OTHER_KEY is no setting"):
        resolved(tmp_path, {name: "sesame"})


def test_none_takes_back_a_judge_and_a_limit_from_a_file(tmp_path: Path) -> None:
    user = "judge = 'openai'\nmax_judge_calls = 3\nmax_judge_cost = 1"
    assert resolved(tmp_path, user=user).judge == "openai"
    settings = resolved(tmp_path, user=user, judge="none", max_judge_calls="none", max_judge_cost="none")
    assert (settings.judge, settings.max_judge_calls, settings.max_judge_cost) == (None, None, None)


def test_without_the_extra_all_but_the_judge_openai_works_and_that_says_what_to_type() -> None:
    code = """
import sys
sys.modules["pydantic"] = sys.modules["openai"] = None
from layerctl import registry
from layerctl.cli import main
from layerctl.judge_settings import JudgeSettings
for name in ("pixels", "simulated"):
    registry.load("judges", name)(JudgeSettings(), print).close()
assert main(["judge", "--show-prompt"]) == 0
try:
    registry.load("judges", "openai")(JudgeSettings(), print)
except Exception as error:
    print(type(error).__name__, error.hint)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("MissingDependencyError pip install 'layerctl[judge]'\n")
