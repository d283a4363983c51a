from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from flask.testing import FlaskClient

from service import openapi
from service.http.problems import codes_of_requests
from tests.support.error_classes import every_error

REPOSITORY = Path(__file__).resolve().parents[2]
ASSETS = REPOSITORY / "service" / "api" / "docs" / "static"


def test_the_committed_document_is_the_one_that_is_served(anyone: FlaskClient) -> None:
    committed = (REPOSITORY / "docs" / "openapi.json").read_text()
    assert openapi.document() == committed, "write it anew: python -m service.openapi > docs/openapi.json"
    assert anyone.get("/openapi.json").get_json() == json.loads(committed)


def test_every_operation_is_documented_with_its_problems(anyone: FlaskClient) -> None:
    document = anyone.get("/openapi.json").get_json()
    assert document["openapi"].startswith("3.1")
    assert document["security"] == [{"token": []}]
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            if method == "parameters":
                continue
            assert operation["summary"], path
            for status, response in operation["responses"].items():
                if path.startswith("/v1/") and int(status) >= 400:
                    assert list(response["content"]) == ["application/problem+json"], (path, method, status)
            if path.startswith("/v1/"):
                assert {"401", "503"} <= set(operation["responses"])
            else:
                assert operation["security"] == []


def test_the_page_loads_nothing_from_elsewhere(anyone: FlaskClient) -> None:
    response = anyone.get("/docs")
    page = response.get_data(as_text=True)
    policy = response.headers["Content-Security-Policy"]
    assert "'unsafe" not in policy
    assert "//" not in policy
    loaded = re.findall(r'(?:src|href)="([^"]+)"', page)
    assert len(loaded) >= 4
    for url in loaded:
        assert not re.match(r"[a-z]+://|//", url)
        if not url.startswith("data:"):
            assert anyone.get(f"/{url}", buffered=True).status_code == 200


@pytest.mark.parametrize("name", ["swagger-ui.css", "swagger-ui-bundle.js", "LICENSE", "NOTICE"])
def test_the_vendored_page_is_there_with_its_license(anyone: FlaskClient, name: str) -> None:
    response = anyone.get(f"/docs/assets/swagger-ui/{name}", buffered=True)
    assert response.status_code == 200
    assert response.data == (ASSETS / "swagger-ui" / name).read_bytes()


def test_the_page_of_errors_has_every_code_once_with_its_meaning(anyone: FlaskClient) -> None:
    page = anyone.get("/docs/errors").get_data(as_text=True)
    codes = {error.code for error in every_error()} | {code for _, code, _ in codes_of_requests()}
    assert sorted(re.findall(r'<tr id="([A-Z0-9_]+)">', page)) == sorted(codes)
    row = re.search(r'<tr id="MANIFEST_UNKNOWN">.*?</tr>', page, re.DOTALL)
    assert row
    assert "<td>502, 404</td><td>no</td>" in row[0]
    assert "the source has no such tag or digest" in row[0]
    assert "<code>POST /v1/jobs</code>" in row[0]
    assert "](" not in page
    assert "`" not in page


def test_the_image_has_the_page_that_the_codes_are_read_from() -> None:
    for name in ("Dockerfile", ".dockerignore"):
        assert "docs/reference/errors.md" in (REPOSITORY / name).read_text()


def test_the_reference_page_names_every_path_and_every_code_of_a_request(anyone: FlaskClient) -> None:
    page = (REPOSITORY / "docs" / "reference" / "api.md").read_text()
    for path in anyone.get("/openapi.json").get_json()["paths"]:
        assert f"`{path}`" in page or f" {path}`" in page, path
    for _, code, _ in codes_of_requests():
        assert f"`{code}`" in page, code


def test_a_browser_is_led_to_the_page(anyone: FlaskClient) -> None:
    response = anyone.get("/")
    assert (response.status_code, response.headers["Location"]) == (302, "docs")
