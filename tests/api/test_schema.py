"""Requests that schemathesis makes up from the OpenAPI document: right ones and wrong ones, none of which may break us.

Each answer is checked against the document too: its status, its media type, its body. The examples are the same in
every run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
import schemathesis
from flask import Flask
from hypothesis import HealthCheck, given, settings
from schemathesis.checks import not_a_server_error
from schemathesis.core.result import Ok
from schemathesis.generation import GenerationMode
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from mirror.settings import Settings
from service.app import create_app
from service.core import Service
from tests.api.conftest import TOKEN
from tests.api.seeded_catalog import SeededCatalog
from tests.support import images
from tests.support.servers.process import free_port

Case = schemathesis.Case[Any]
HEADERS = {"Authorization": f"Bearer {TOKEN}"}
CONFORMANCE = [status_code_conformance, content_type_conformance, response_schema_conformance]


def for_each_case(app: Flask, check: Callable[[Case], None], *, examples: int) -> int:
    """Run *check* on *examples* right and as many wrong requests of each operation. Return their number."""
    calls = 0
    schema = schemathesis.openapi.from_wsgi("/openapi.json", app)
    for found in schema.get_all_operations():
        assert isinstance(found, Ok)
        operation = found.ok()
        takes_input = any(operation.iter_parameters()) or bool(operation.body)
        for mode in [GenerationMode.POSITIVE, *([GenerationMode.NEGATIVE] if takes_input else [])]:

            @settings(
                max_examples=examples,
                derandomize=True,
                database=None,
                deadline=None,
                suppress_health_check=list(HealthCheck),
            )
            @given(case=operation.as_strategy(generation_mode=mode))
            def run(case: Case) -> None:
                nonlocal calls
                calls += 1
                check(case)

            run()
    return calls


@pytest.mark.timeout(400)  # it computes for 8 seconds
def test_no_request_breaks_the_api_and_every_answer_is_as_documented(app: Flask, mirror: SeededCatalog) -> None:
    mirror.hold(images.three_platforms("schema"), "a:1")

    def check(case: Case) -> None:
        case.call_and_validate(headers=HEADERS, checks=[not_a_server_error, *CONFORMANCE])

    assert for_each_case(app, check, examples=25) > 200


@pytest.fixture(params=["redis", "s3"])
def crippled(request: pytest.FixtureRequest, api_settings: Settings) -> Iterator[Flask]:
    """An API of which one store is away."""
    nowhere = f"127.0.0.1:{free_port()}"
    without_redis = replace(api_settings, redis_url=f"redis://{nowhere}")
    without_s3 = replace(api_settings, s3_endpoint=f"http://{nowhere}")
    service = Service.connect(without_redis if request.param == "redis" else without_s3)
    yield create_app(service)
    service.close()


def test_with_a_store_away_every_failure_is_a_503(crippled: Flask) -> None:
    def check(case: Case) -> None:
        response = case.call(headers=HEADERS)
        assert response.status_code < 500 or response.status_code == 503, response.text
        case.validate_response(response, checks=CONFORMANCE)

    for_each_case(crippled, check, examples=3)
