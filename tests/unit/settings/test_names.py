"""Variables that are no settings are refused, but for those of other programs."""

from __future__ import annotations

import re

import pytest

from mirror.settings import InvalidSettings, Settings
from tests.unit.settings.loading import PAGE, problems


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("MIRROR_WORKER", "MIRROR_WORKERS"),
        ("MIRROR_LOGLEVEL", "MIRROR_LOG_LEVEL"),
        ("MIRROR_BUCKET", "MIRROR_S3_BUCKET"),
        ("MIRROR_ADMINTOKEN", "MIRROR_ADMIN_TOKEN"),
        ("MIRROR_PULL_TOKENS", "MIRROR_PULL_TOKEN"),
        ("MIRROR_port", "MIRROR_PORT"),
        ("MIRROR_REDIS_URI_FILE", "MIRROR_REDIS_URL_FILE"),
        ("MIRROR_SYNC_FIEL", "MIRROR_SYNC_FILE"),
    ],
)
def test_a_mistyped_name_is_refused_with_the_nearest_one(
    monkeypatch: pytest.MonkeyPatch, name: str, meant: str
) -> None:
    monkeypatch.setenv(name, "some-value")
    with pytest.raises(InvalidSettings, match=f"{name}: is not a setting; did you mean {meant}\\?") as refused:
        Settings.load()
    assert "some-value" not in str(refused.value)


def test_a_name_that_is_close_to_no_setting_is_refused_with_the_page(monkeypatch: pytest.MonkeyPatch) -> None:
    assert problems(monkeypatch, XYZZY="1") == {
        "MIRROR_XYZZY": ["is not a setting; docs/reference/settings.md lists all of them"]
    }


def test_unknown_names_wrong_values_and_missing_settings_are_listed_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"WORKER": "2", "PROT": "80", "WORKERS": "many", "HOST": "0.0.0.0", "REDIS_URL": "?"}.items():
        monkeypatch.setenv(f"MIRROR_{name}", value)
    with pytest.raises(InvalidSettings) as refused:
        Settings.load(Settings.require_servable, Settings.require_stores)
    wanted = "WORKER PROT WORKERS ADMIN_TOKEN PUBLIC_URL S3_BUCKET REDIS_URL"
    assert refused.value.problems.keys() == {f"MIRROR_{name}" for name in wanted.split()}
    assert refused.value.problems["MIRROR_REDIS_URL"] != ["must be set"]


@pytest.mark.parametrize(
    "name", ["MIRROR_URL", "MIRROR_TOKEN_FILE", "MIRROR_STORES_OF", "MIRROR_LISTEN", "MIRROR_IMAGE"]
)
def test_variables_of_other_programs_are_accepted(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, "/somewhere")
    assert Settings.load() == Settings()


def test_every_variable_in_the_repository_is_accepted(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process starts even if it inherits the variables of a script, an example or a manifest."""
    root = PAGE.parents[2]
    places = [path for folder in ("deploy", "bench") for path in (root / folder).rglob("*") if path.is_file()]
    text = "\n".join(path.read_text(encoding="utf-8", errors="replace") for path in places)
    names = set(re.findall(r"\bMIRROR_[A-Z0-9]+(?:_[A-Z0-9]+)*\b(?!_)", text))
    assert len(names) > 15
    for name in names:
        monkeypatch.setenv(name, "x")
    with pytest.raises(InvalidSettings) as refused:
        Settings.load()
    assert [name for name, texts in refused.value.problems.items() if "is not a setting" in " ".join(texts)] == []


def test_variables_that_kubernetes_sets_for_a_service_are_accepted(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SERVICE_HOST", "SERVICE_PORT", "SERVICE_PORT_HTTP", "PORT", "PORT_80_TCP", "PORT_80_TCP_ADDR"):
        monkeypatch.setenv(f"MIRROR_UI_{name}", "10.0.0.1")
    assert Settings.load() == Settings()
    monkeypatch.delenv("MIRROR_UI_SERVICE_HOST")
    with pytest.raises(InvalidSettings, match="MIRROR_UI_PORT: is not a setting"):
        Settings.load()
