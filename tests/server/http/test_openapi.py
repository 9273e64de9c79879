"""The OpenAPI document: whole, honest, and held to by the answers (schemathesis)."""

from __future__ import annotations

import base64
import contextlib
import io
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import Unsatisfiable
from PIL import Image
from schemathesis import Case, GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
    unsupported_method,
)

from kshot_server.bodies.base import Parts
from kshot_server.bodies.json_body import MODELS
from kshot_server.bodies.table import BODY_FORMATS
from kshot_server.openapi import request_body
from kshot_server.problems import PROBLEMS


@pytest.fixture(scope="module")
def document(client: httpx.Client) -> dict[str, Any]:
    content: dict[str, Any] = client.get("/openapi.json").json()
    return content


def operations(document: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            yield path, method, operation


def test_every_route_is_there(document: dict[str, Any]) -> None:
    assert {(method, path) for path, method, _ in operations(document)} == {
        ("get", "/v1/models"),
        ("get", "/v1/models/{model}"),
        ("post", "/v1/models/{model}/sessions"),
        ("post", "/v1/models/{model}/classify"),
        ("get", "/v1/sessions"),
        ("get", "/v1/sessions/{session}"),
        ("delete", "/v1/sessions/{session}"),
        ("post", "/v1/sessions/{session}/support"),
        ("post", "/v1/sessions/{session}/classify"),
        ("get", "/livez"),
        ("get", "/readyz"),
        ("get", "/metrics"),
    }


def test_every_operation_is_explained(document: dict[str, Any]) -> None:
    ids = [operation["operationId"] for _, _, operation in operations(document)]
    assert len(ids) == len(set(ids))
    for path, _, operation in operations(document):
        assert operation["summary"]
        assert operation["description"]
        assert operation["tags"][0] in {tag["name"] for tag in document["tags"]}
        if path.startswith("/v1"):
            assert operation["security"] == [{"bearer": []}, {"header": []}]


def test_every_error_is_a_problem(document: dict[str, Any]) -> None:
    told = set()
    for path, _, operation in operations(document):
        errors = {status: answer for status, answer in operation["responses"].items() if int(status) >= 400}
        if path.startswith("/v1"):
            assert {"401", "422", "429", "500", "503", "504"} <= errors.keys()
        for status, answer in errors.items():
            assert list(answer["content"]) == ["application/problem+json"]
            assert answer["content"]["application/problem+json"]["schema"]["$ref"].endswith("/ProblemOut")
            codes = [code for code in PROBLEMS if f"`{code}`" in answer["description"]]
            assert codes
            assert all(PROBLEMS[code].status == int(status) for code in codes)
            told |= set(codes)
    # Those two belong to no route.
    assert set(PROBLEMS) - told == {"not_found", "method_not_allowed"}


def test_nothing_of_the_framework_shows(document: dict[str, Any]) -> None:
    assert not {"HTTPValidationError", "ValidationError"} & document["components"]["schemas"].keys()
    assert "_engine" not in str(document)


def test_bodies_come_in_every_content_type_that_is_read(document: dict[str, Any]) -> None:
    for path, method, operation in operations(document):
        if method == "post":
            content = operation["requestBody"]["content"]
            assert list(content) == list(BODY_FORMATS), path
            assert content["application/json"]["examples"]["strokes"]["value"]


@pytest.mark.parametrize("parts", MODELS)
def test_examples_are_right_and_their_images_are_images(parts: Parts) -> None:
    example = request_body(parts)["requestBody"]["content"]["application/json"]["examples"]
    form: Any = MODELS[parts].model_validate(example["strokes"]["value"])
    for item in [*getattr(form, "support", ()), *getattr(form, "queries", ())]:
        with Image.open(io.BytesIO(base64.b64decode(item.image))) as opened:
            assert opened.size == (8, 8)


def test_the_examples_work_as_they_are(client: httpx.Client, document: dict[str, Any]) -> None:
    def example(path: str) -> Any:
        return document["paths"][path]["post"]["requestBody"]["content"]["application/json"]["examples"]["strokes"][
            "value"
        ]

    made = client.post("/v1/models/tiny/sessions", json=example("/v1/models/{model}/sessions"))
    assert made.status_code in {200, 201}
    classified = client.post(
        f"/v1/sessions/{made.json()['id']}/classify", json=example("/v1/sessions/{session}/classify")
    )
    once = client.post("/v1/models/tiny/classify", json=example("/v1/models/{model}/classify"))
    assert classified.json() == once.json()


# -- schemathesis ------------------------------------------------------------------------------------------------------

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    negative_data_rejection,
    unsupported_method,
]
# positive_data_acceptance is left out: whether base64 is an image is more than a schema can say.


OPERATIONS = [
    ("GET", "/v1/models"),
    ("GET", "/v1/models/{model}"),
    ("POST", "/v1/models/{model}/sessions"),
    ("POST", "/v1/models/{model}/classify"),
    ("GET", "/v1/sessions"),
    ("GET", "/v1/sessions/{session}"),
    ("DELETE", "/v1/sessions/{session}"),
    ("POST", "/v1/sessions/{session}/support"),
    ("POST", "/v1/sessions/{session}/classify"),
    ("GET", "/livez"),
    ("GET", "/readyz"),
    ("GET", "/metrics"),
]


@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE], ids=["valid", "invalid"])
@pytest.mark.parametrize(("method", "path"), OPERATIONS)
def test_answers_are_as_documented(
    client: httpx.Client, document: dict[str, Any], method: str, path: str, mode: GenerationMode
) -> None:
    operation = schemathesis.openapi.from_dict(document)[path][method]

    @settings(
        max_examples=20,
        deadline=None,
        derandomize=True,
        database=None,
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy(generation_mode=mode))
    def holds(case: Case) -> None:
        with contextlib.suppress(KeyError, ValueError):
            if float(case.headers["X-Timeout-Seconds"]) > 0:
                case.headers["X-Timeout-Seconds"] = "60"  # a deadline of an instant is rightly answered 504
        prepared = requests.Request(**case.as_transport_kwargs(base_url="http://local")).prepare()
        headers = [
            (name, value.encode("latin-1") if isinstance(value, str) else value)
            for name, value in prepared.headers.items()
        ]
        answer = client.request(prepared.method, prepared.url, headers=headers, content=prepared.body)
        case.validate_response(answer, checks=CHECKS)

    try:
        holds()
    except Unsatisfiable:
        assert mode is GenerationMode.NEGATIVE  # an operation that takes nothing cannot be sent anything wrong


def test_a_session_lives_as_documented(client: httpx.Client, document: dict[str, Any], bodies: Any) -> None:
    """The operations on a session that is there: what schemathesis sends to them knows none."""
    schema = schemathesis.openapi.from_dict(document)
    body = bodies(seed=77, queries=1)
    made = client.post("/v1/models/tiny/sessions", json={"support": body.json["support"]})
    parameters = {"session": made.json()["id"]}
    schema["/v1/models/{model}/sessions"]["POST"].Case(path_parameters={"model": "tiny"}).validate_response(
        made, checks=CHECKS[:5]
    )
    for path, method, content in (
        ("/v1/sessions/{session}", "GET", None),
        ("/v1/sessions/{session}/classify", "POST", body.query_json),
        ("/v1/sessions/{session}/support", "POST", bodies(labels=("dog",), seed=78).json),
        ("/v1/sessions/{session}", "DELETE", None),
    ):
        answer = client.request(method, path.format(**parameters), json=content)
        assert answer.is_success
        given = {} if content is None else {"body": content, "media_type": "application/json"}
        case = schema[path][method].Case(path_parameters=parameters, **given)
        case.validate_response(answer, checks=CHECKS[:5])
