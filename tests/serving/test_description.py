"""Requests made up from the server's own description of itself: none makes it fail, and every answer is one that it describes."""

from __future__ import annotations

import contextlib
from typing import Any

import hypothesis
import pytest
from tests.serving.conftest import TOKEN, Services

from promptmix.serving.app import create_app

schemathesis = pytest.importorskip(
    "schemathesis", reason="schemathesis makes up requests from the description; it is not installed"
)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Do not use the `random` module inside strategies")  # schemathesis does
@pytest.mark.parametrize("token", [TOKEN, None])
def test_no_request_makes_the_server_fail(service: Services, token: str | None) -> None:
    from schemathesis.generation import GenerationMode
    from schemathesis.python import asgi
    from schemathesis.specs.openapi import checks

    held = [
        schemathesis.checks.not_a_server_error,
        checks.status_code_conformance,
        checks.content_type_conformance,
        checks.response_schema_conformance,
    ]
    headers = {} if token is None else {"authorization": f"Bearer {token}"}
    app = create_app(service(allow_class_changes=True, token=TOKEN))
    try:
        described = schemathesis.openapi.from_asgi("/openapi.json", app)
        asked = set()
        for operation in (one.ok() for one in described.get_all_operations()):
            if token is None and not operation.label.endswith("/v1/classes"):
                continue
            for mode in GenerationMode:
                # Good requests are for the model there is; a made-up one is soon refused.
                of_a_model = mode is GenerationMode.POSITIVE and operation.path in ("/v1/predict", "/v1/embed", "/v1/classes")
                cases = operation.as_strategy(generation_mode=mode, query={"model": "drawings"} if of_a_model else None)

                @hypothesis.settings(max_examples=10, suppress_health_check=list(hypothesis.HealthCheck))
                @hypothesis.given(case=cases)
                def check(case: Any) -> None:
                    answer = case.call(headers=headers)
                    case.validate_response(answer, checks=held)
                    asked.add((case.operation.label, answer.status_code))

                # A page that asks for nothing can be asked in one way only.
                with contextlib.suppress(hypothesis.errors.Unsatisfiable):
                    check()
        assert {label for label, _ in asked} >= {f"{method} /v1/classes" for method in ("GET", "POST", "PATCH", "DELETE")}
        assert ("POST /v1/classes", 401 if token is None else 200) in asked
    finally:
        asgi.shutdown_lifespans()
