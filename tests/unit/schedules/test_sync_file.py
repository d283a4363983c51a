"""What a sync file means, and what is wrong with one: each problem at its line and column, all at once."""

from __future__ import annotations

from datetime import timedelta
from textwrap import dedent

import pytest

from mirror.errors import SyncFileInvalid
from mirror.records.schedule import ScheduleDefinition
from mirror.records.schedule_schema import dump_definition
from mirror.registry.credentials import Credential
from mirror.schedules.export import write_sync_file
from mirror.schedules.sync_file import decode, read_sync_file

SECRET = "hunter2-of-the-hub"
ENVIRONMENT = {"HUB_USER": "robot", "HUB_TOKEN": SECRET, "EMPTY": ""}
JOB = "job: {source: redis:7}"


def file(text: str, start: str = "version: 1\n") -> str:
    return start + dedent(text)


def definitions(text: str) -> dict[str, ScheduleDefinition]:
    return {sync.definition.name: sync.definition for sync in read_sync_file(file(text)).syncs}


def problems(text: str, start: str = "version: 1\n") -> list[tuple[int, int, str]]:
    with pytest.raises(SyncFileInvalid) as refused:
        read_sync_file(file(text, start), ENVIRONMENT)
    assert SECRET not in str(refused.value) + repr(refused.value.problems)
    return [(one.line, one.column, one.detail) for one in refused.value.problems]


def credentials(text: str) -> dict[str, Credential]:
    found = read_sync_file(file(text) + "syncs: []\n", ENVIRONMENT).credentials
    return {one.registry: one.credential for one in found}


def test_a_sync_is_a_schedule_whose_job_is_kept_as_it_was_written() -> None:
    found = definitions(
        """
        syncs:
          - name: nightly-alpine
            cron: "30 2 * * *"
            time_zone: Europe/Paris
            jitter: 10m
            job: {source: {repository: docker.io/library/alpine}, tags: {semver: ">=3.18"}}
        """
    )["nightly-alpine"]
    assert (found.timetable.cron, found.timetable.time_zone) == ("30 2 * * *", "Europe/Paris")
    assert found.timetable.jitter == timedelta(minutes=10)
    assert found.job == {"source": {"repository": "docker.io/library/alpine"}, "tags": {"semver": ">=3.18"}}


def test_a_sync_has_the_defaults_unless_it_says_otherwise() -> None:
    found = definitions(
        f"""
        defaults:
          time_zone: Europe/Paris
          overlap: queue
          labels: {{team: base, tier: gold}}
        syncs:
          - {{name: a, every: 6h, {JOB}}}
          - {{name: b, every: 6h, overlap: skip, labels: {{team: web}}, {JOB}}}
        """
    )
    assert (found["a"].timetable.time_zone, found["a"].overlap) == ("Europe/Paris", "queue")
    assert found["a"].labels == {"team": "base", "tier": "gold"}
    assert (found["b"].timetable.time_zone, found["b"].overlap) == ("Europe/Paris", "skip")
    assert found["b"].labels == {"team": "web"}


def test_the_time_of_a_sync_replaces_the_time_of_the_defaults_of_either_kind() -> None:
    found = definitions(
        f"""
        defaults: {{cron: "@daily"}}
        syncs:
          - {{name: a, {JOB}}}
          - {{name: b, every: 6h, {JOB}}}
        """
    )
    assert (found["a"].timetable.cron, found["a"].timetable.every) == ("@daily", None)
    assert (found["b"].timetable.cron, found["b"].timetable.every) == (None, timedelta(hours=6))


def test_defaults_of_jobs_go_into_the_job_or_into_each_of_its_images() -> None:
    found = definitions(
        """
        defaults:
          every: 6h
          job: {priority: low, overwrite: never, platforms: {only: [linux/amd64], mode: sparse}}
        syncs:
          - {name: one, job: {source: redis:7, overwrite: always}}
          - {name: many, job: {priority: high, images: [{source: redis:7}, {source: redis:8, overwrite: always}]}}
        """
    )
    platforms = {"only": ["linux/amd64"], "mode": "sparse"}
    assert found["one"].job == {
        "source": "redis:7",
        "priority": "low",
        "overwrite": "always",
        "platforms": platforms,
    }
    assert found["many"].job == {
        "priority": "high",
        "images": [
            {"source": "redis:7", "overwrite": "never", "platforms": platforms},
            {"source": "redis:8", "overwrite": "always", "platforms": platforms},
        ],
    }


def test_anchors_stand_under_keys_that_begin_with_x() -> None:
    found = definitions(
        """
        x-tags: &stable
          semver: ">=3"
        x-nightly: &nightly {cron: "30 2 * * *", time_zone: Europe/Paris}
        syncs:
          - {<<: *nightly, name: a, job: {source: {repository: alpine}, tags: *stable}}
          - {<<: *nightly, name: b, time_zone: UTC, job: {source: {repository: redis}, tags: *stable}}
        """
    )
    assert [one.timetable.cron for one in found.values()] == ["30 2 * * *"] * 2
    assert [one.timetable.time_zone for one in found.values()] == ["Europe/Paris", "UTC"]
    assert found["a"].job["tags"] == {"semver": ">=3"}


def test_an_export_is_a_sync_file_with_the_same_schedules() -> None:
    before = definitions(
        f"""
        defaults: {{jitter: 10m, deadline: 4h, labels: {{team: base}}, job: {{priority: low}}}}
        syncs:
          - {{name: a, every: 6h, delete_brake: {{max_share: 0.25}}, {JOB}}}
          - {{name: b, cron: "*/30 * * * *", job: {{source: {{repository: alpine}}, tags: {{semver: "3"}}}}}}
        """
    )
    text = write_sync_file([dump_definition(definition) for definition in before.values()])
    assert {sync.definition.name: sync.definition for sync in read_sync_file(text).syncs} == before


def test_an_empty_list_of_syncs_is_a_file_and_an_empty_section_is_none() -> None:
    assert read_sync_file("version: 1\ndefaults:\ncredentials:\nsyncs: []\n").syncs == ()


@pytest.mark.parametrize("text", ["", "\n\n", "# only a comment\n", "---\n", "null\n"])
def test_an_empty_file_is_never_an_empty_list(text: str) -> None:
    assert problems(text, start="")[0][2].startswith("The file is empty.")


@pytest.mark.parametrize("syncs", ["", "syncs:\n", "syncs: null\n"])
def test_syncs_must_be_written_as_a_list(syncs: str) -> None:
    assert "'syncs: []' deletes every schedule" in problems(syncs)[0][2]


@pytest.mark.parametrize(
    ("text", "place", "detail"),
    [
        ("syncs: [}", (1, 9), None),
        ("version: 1\nsyncs:\n  - cron: */5 * * * *", (3, 12), "a '*' begins an alias here"),
        ("syncs: []\nsyncs: []", (2, 1), "the key 'syncs' is in line 1 already."),
        ("- 1", (1, 1), "This is a list. Write 'version: 1' and 'syncs:'."),
        ("version: 2\nsyncs: []", (1, 1), "This release reads 'version: 1'."),
        ("version: '1'\nsyncs: []", (1, 1), "Write 'version: 1'."),
        ("syncs: []", (1, 1), "Write 'version: 1'."),
        ("version: 1\nsyncs: {}", (2, 1), "Not a valid list."),
        ("version: 1\nsyncs: [3]", (2, 9), "Invalid input type."),
        ("version: 1\nsync: []\nsyncs: []", (2, 1), "Unknown key 'sync'. Did you mean 'syncs'?"),
    ],
)
def test_a_file_that_is_no_sync_file_is_refused_at_its_place(text: str, place: tuple[int, int], detail: str) -> None:
    found = [one for one in problems(text, start="") if one[2].startswith(detail or "")]
    assert found
    assert found[0][:2] == place


@pytest.mark.parametrize(
    ("sync", "column", "detail"),
    [
        (f"{{every: 6h, {JOB}}}", 5, "The key 'name' is missing."),
        ("{name: a, every: 6h}", 5, "The key 'job' is missing."),
        (f"{{name: A, every: 6h, {JOB}}}", 6, "Write at most 63 characters"),
        (f"{{name: a, {JOB}}}", 5, None),
        (f"{{name: a, every: 6h, cron: '@daily', {JOB}}}", None, None),
        (f"{{name: a, cron: '61 * * * *', {JOB}}}", 15, None),
        (f"{{name: a, cron: '0 0 30 2 *', {JOB}}}", 15, None),
        (f"{{name: a, every: 6h, time_zone: Mars/Base, {JOB}}}", 26, None),
        (f"{{name: a, evry: 6h, {JOB}}}", 15, "Unknown key 'evry'. Did you mean 'every'?"),
        ("{name: a, every: 6h, job: {source: redis, tgas: {}}}", 47, "Unknown key 'tgas'. Did you mean 'tags'?"),
        ("{name: a, every: 6h, job: {source: redis, tags: {semver: 3.18}}}", 54, "Not a valid string."),
        ("{name: a, every: 6h, job: {source: redis, tags: {latest: {cout: 3}}}}", 63, "Unknown key 'cout'."),
        ("{name: a, every: 6h, job: {plan: plan_1}}", None, "A schedule repeats a request"),
        (f"{{name: '${{NAME}}', every: 6h, {JOB}}}", 6, "'${' is replaced only in username, password"),
        ("{name: a, every: 6h, job: {source: 'redis:${TAG}'}}", 32, "'${' is replaced only in username, password"),
    ],
)
def test_what_is_wrong_with_a_sync_has_its_line_and_column(sync: str, column: int | None, detail: str | None) -> None:
    found = [one for one in problems(f"syncs:\n  - {sync}\n") if one[2].startswith(detail or "")]
    assert found
    assert {one[0] for one in found} == {3}
    assert column in (None, found[0][1])


def test_all_problems_are_found_at_once_in_the_order_of_the_file() -> None:
    text = f"""
        defaults: {{jitter: 3}}
        credentials:
          hub: {{registry: docker.io, username: u}}
        syncs:
          - {{name: a, every: 6h, {JOB}}}
          - {{name: a, evry: 6h, {JOB}}}
          - {{name: c, every: 6 hours, {JOB}}}
        """
    found = problems(text)
    assert [line for line, _, _ in found] == [3, 5, 8, 8, 9]
    with pytest.raises(SyncFileInvalid) as refused:
        read_sync_file(file(text))
    assert str(refused.value).startswith("line 3, column 12: Write a whole number and a unit")
    assert str(refused.value).endswith("There are 4 more.")
    assert [one.pointer for one in refused.value.problems] == [
        "/defaults/jitter",
        "/credentials/hub",
        "/syncs/1/name",
        "/syncs/1/evry",
        "/syncs/2/every",
    ]


def test_a_name_is_used_once() -> None:
    found = problems(f"syncs:\n  - {{name: a, every: 6h, {JOB}}}\n  - {{name: a, every: 1h, {JOB}}}\n")
    assert found == [(4, 6, "The sync in line 3 has this name already.")]


@pytest.mark.parametrize(
    "default", ["name: a", "job: {source: redis}", "job: {images: []}", "job: {plan: x}", "cron: 3"]
)
def test_defaults_are_options_only(default: str) -> None:
    assert problems(f"defaults:\n  {default}\nsyncs: []\n")[0][0] == 3


def test_defaults_hold_one_kind_of_time() -> None:
    found = problems("defaults: {cron: '@daily', every: 6h}\nsyncs: []\n")
    assert found == [(2, 28, "Write either 'cron' or 'every', not both.")]


def test_defaults_cannot_make_a_small_file_large() -> None:
    labels = ", ".join(f"k{number}: v" for number in range(5_000))
    syncs = "".join(f"  - {{name: s{number}, every: 6h, {JOB}}}\n" for number in range(100))
    found = problems(f"defaults: {{labels: {{{labels}}}}}\nsyncs:\n{syncs}")
    assert found == [(3, 1, "The syncs have, each with its defaults, more than 200000 values.")]


@pytest.mark.parametrize(
    ("written", "registry", "login"),
    [
        (
            "{registry: Index.docker.io, username: '${HUB_USER}', password: '${HUB_TOKEN}'}",
            "docker.io",
            Credential("robot", SECRET),
        ),
        (
            "{registry: quay.io/Acme, username: 'acme+${HUB_USER}', password: 0123}",
            "quay.io/Acme",
            Credential("acme+robot", "0123"),
        ),
        (
            "{registry: 'harbor.corp:443', identity_token: '${HUB_TOKEN}'}",
            "harbor.corp",
            Credential("", "", identity_token=SECRET),
        ),
        (
            "{registry: harbor.corp:8443, registry_token: '${HUB_TOKEN}'}",
            "harbor.corp:8443",
            Credential("", "", registry_token=SECRET),
        ),
        (
            "{registry: a.corp, username: $HUB_USER, password: 'a$b'}",
            "a.corp",
            Credential("$HUB_USER", "a$b"),
        ),
    ],
)
def test_a_credential_is_for_a_registry_by_its_canonical_name(written: str, registry: str, login: Credential) -> None:
    assert credentials(f"credentials:\n  hub: {written}\n") == {registry: login}


def test_what_a_variable_stands_for_is_no_variable() -> None:
    text = "version: 1\nsyncs: []\ncredentials: {a: {registry: a.corp, username: u, password: '${P}'}}\n"
    [found] = read_sync_file(text, {"P": "${Q}", "Q": "wrong"}).credentials
    assert found.credential.password == "${Q}"


@pytest.mark.parametrize(
    ("written", "key", "detail"),
    [
        (
            "{registry: a.corp, username: u, password: '${NOT_SET}'}",
            "password",
            "The variable NOT_SET is not set, or is empty.",
        ),
        (
            "{registry: a.corp, username: u, password: '${EMPTY}'}",
            "password",
            "The variable EMPTY is not set, or is empty.",
        ),
        ("{registry: a.corp, username: u, password: '${HUB TOKEN}'}", "password", "Write a variable as '${NAME}'"),
        ("{registry: a.corp, username: u, password: '${HUB_TOKEN'}", "password", "Write a variable as '${NAME}'"),
        ("{registry: '${HOST}', username: u, password: p}", "registry", "'${' is replaced only in username, password"),
        ("{registry: 'a corp', username: u, password: p}", "registry", "This is not the name of a registry"),
        ("{registry: a.corp, username: u}", None, "Write 'username' and 'password', or 'identity_token', or"),
        ("{registry: a.corp, password: p, identity_token: t}", None, "Write 'username' and 'password', or"),
        ("{registry: a.corp}", None, "Write 'username' and 'password', or"),
        ("{username: u, password: p}", None, "The key 'registry' is missing."),
        ("{registry: a.corp, username: u, password: }", "password", "Field may not be null."),
        ("{registry: a.corp, username: u, password: [p]}", "password", "Not a valid string."),
        ("{registry: a.corp, username: u, pasword: p}", "pasword", "Unknown key 'pasword'. Did you mean 'password'?"),
        ("{registry: a.corp, registry_token: 'two words'}", "registry_token", "It cannot stand in a header."),
    ],
)
def test_what_is_wrong_with_a_credential_is_said_without_it(written: str, key: str | None, detail: str) -> None:
    entry = f"  a: {written}"
    found = problems(f"syncs: []\ncredentials:\n{entry}\n")
    column = entry.index(key) + 1 if key else 3
    assert [(line, place) for line, place, text in found if text.startswith(detail)] == [(4, column)]


def test_a_registry_has_one_credential() -> None:
    login = "username: u, password: p"
    found = problems(
        f"syncs: []\ncredentials:\n  a: {{registry: docker.io, {login}}}\n  b: {{registry: index.docker.io, {login}}}\n"
    )
    assert found == [(5, 7, "The credential 'a' is for docker.io too.")]


def test_without_an_environment_credentials_are_checked_and_not_made() -> None:
    text = "version: 1\nsyncs: []\ncredentials:\n  a: {registry: a.corp, username: u, password: '${NOT_SET}'}\n"
    assert read_sync_file(text).credentials == ()
    with pytest.raises(SyncFileInvalid):
        read_sync_file(text.replace("a.corp", "'${HOST}'"))


def test_no_repr_shows_a_secret() -> None:
    found = read_sync_file(
        "version: 1\nsyncs: []\ncredentials:\n  a: {registry: a.corp, username: u, password: '${HUB_TOKEN}'}\n",
        ENVIRONMENT,
    )
    assert found.credentials[0].credential.password == SECRET
    assert SECRET not in repr(found)


def test_a_file_is_utf_8_of_at_most_a_mebibyte() -> None:
    assert decode(b"\xef\xbb\xbfversion: 1") == "version: 1"
    with pytest.raises(SyncFileInvalid, match=r"line 2, column 4: This is not UTF-8\."):
        decode(b"a: 1\nb: \xff\n")
    with pytest.raises(SyncFileInvalid, match="more than 1 MiB"):
        decode(b"#" * (2**20 + 1))
