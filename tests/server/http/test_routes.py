"""Each route, over the application in this process: what goes in, what comes out."""

from __future__ import annotations

import datetime
import re
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from kshot_server.schemas import ClassificationOut, ModelListOut, ModelOut, SessionListOut, SessionOut

TENSORS = {"Content-Type": "application/x-safetensors"}


def teach(client: httpx.Client, body: Any, model: str = "tiny") -> httpx.Response:
    return client.post(f"/v1/models/{model}/sessions", json=body)


def test_teaching_answers_a_session(client: httpx.Client, bodies: Callable[..., Any]) -> None:
    answer = teach(client, bodies(seed=1).json)
    session = answer.json()
    assert answer.status_code == 201
    assert answer.headers["Location"] == f"/v1/sessions/{session['id']}"
    SessionOut.model_validate(session, strict=True, extra="forbid")
    assert session["labels"] == ["ant", "bee", "cat"]
    assert session["counts"] == {"ant": 2, "bee": 2, "cat": 2}
    assert (session["model"], session["version"], session["support_size"]) == ("tiny", "10", 6)
    assert (session["cached"], session["durability"], session["ttl_seconds"]) == (False, "durable", 86_400)
    lived = datetime.datetime.fromisoformat(session["expires_at"]) - datetime.datetime.fromisoformat(
        session["created_at"]
    )
    assert lived.total_seconds() == pytest.approx(86_400, abs=1)


def test_the_same_support_set_is_the_same_session(client: httpx.Client, bodies: Callable[..., Any]) -> None:
    body = bodies(seed=2)
    first = teach(client, body.json)
    reordered = {"support": body.json["support"][::-1]}
    again = [
        teach(client, reordered),
        client.post("/v1/models/tiny@10/sessions", files=body.files),
        client.post("/v1/models/tiny/sessions", content=body.tensors, headers=TENSORS),
    ]
    assert [answer.status_code for answer in again] == [200, 200, 200]
    assert {answer.json()["id"] for answer in again} == {first.json()["id"]}
    assert all(answer.json()["cached"] for answer in again)
    assert {answer.json()["created_at"] for answer in again} == {first.json()["created_at"]}
    other_version = teach(client, body.json, "tiny@2")
    assert other_version.status_code == 201
    assert other_version.json()["id"] != first.json()["id"]


def test_classifying_is_the_same_by_every_way(client: httpx.Client, bodies: Callable[..., Any]) -> None:
    body = bodies(seed=3, queries=4)
    session = teach(client, {"support": body.json["support"]}).json()["id"]
    path = f"/v1/sessions/{session}/classify"
    answers = [
        client.post(path, json=body.query_json),
        client.post(path, files=[file for file in body.files if file[0] == "queries"]),
        client.post("/v1/models/tiny/classify", json=body.json),
        client.post("/v1/models/tiny/classify", files=body.files),
        client.post("/v1/models/tiny/classify", content=body.tensors, headers=TENSORS),
    ]
    results = [answer.json() for answer in answers]
    for answer, result in zip(answers, results, strict=True):
        assert answer.status_code == 200, result
        ClassificationOut.model_validate(result, extra="forbid")
        assert result["session"] == session
        assert (result["model"], result["version"]) == ("tiny", "10")
        assert len(result["predictions"]) == 4
        for got, wanted in zip(result["predictions"], results[0]["predictions"], strict=True):
            assert got["label"] == max(got["probabilities"], key=got["probabilities"].__getitem__)
            assert got["probability"] == got["probabilities"][got["label"]]
            assert sum(got["probabilities"].values()) == pytest.approx(1, abs=1e-5)
            assert got["probabilities"] == pytest.approx(wanted["probabilities"], abs=1e-5)


def test_an_answer_does_not_depend_on_other_queries(client: httpx.Client, bodies: Callable[..., Any]) -> None:
    body = bodies(seed=4, queries=5)
    session = teach(client, {"support": body.json["support"]}).json()["id"]
    path = f"/v1/sessions/{session}/classify"
    together = client.post(path, json=body.query_json).json()["predictions"]
    for query, wanted in zip(body.query_json["queries"], together, strict=True):
        alone = client.post(path, json={"queries": [query]}).json()["predictions"][0]
        assert alone["probabilities"] == pytest.approx(wanted["probabilities"], abs=1e-5)


def test_a_session_of_one_call_is_kept(client: httpx.Client, bodies: Callable[..., Any]) -> None:
    body = bodies(seed=5, queries=1)
    once = client.post("/v1/models/tiny/classify", json=body.json).json()
    kept = client.get(f"/v1/sessions/{once['session']}")
    assert kept.status_code == 200
    again = client.post(f"/v1/sessions/{once['session']}/classify", json=body.query_json)
    assert again.json() == once


def test_extending_makes_a_new_session_over_the_union(client: httpx.Client, bodies: Callable[..., Any]) -> None:
    base, more = bodies(seed=6), bodies(labels=("cat", "dog"), shot=1, seed=7)
    known = teach(client, base.json | {"ttl_seconds": 500, "durability": "volatile"}).json()
    answer = client.post(f"/v1/sessions/{known['id']}/support", json=more.json)
    extended = answer.json()
    assert answer.status_code == 201
    assert extended["id"] != known["id"]
    assert extended["counts"] == {"ant": 2, "bee": 2, "cat": 3, "dog": 1}
    assert (extended["ttl_seconds"], extended["durability"]) == (500, "volatile")
    whole = teach(client, {"support": base.json["support"] + more.json["support"]})
    assert (whole.status_code, whole.json()["id"]) == (200, extended["id"])
    assert client.get(f"/v1/sessions/{known['id']}").json()["counts"] == known["counts"]


def test_extending_may_add_images_of_one_known_class(client: httpx.Client, bodies: Callable[..., Any]) -> None:
    known = teach(client, bodies(seed=8).json).json()
    answer = client.post(f"/v1/sessions/{known['id']}/support", json=bodies(labels=("ant",), shot=1, seed=9).json)
    assert (answer.status_code, answer.json()["support_size"]) == (201, 7)


def test_deleting_forgets(client: httpx.Client, bodies: Callable[..., Any]) -> None:
    path = teach(client, bodies(seed=10).json).headers["Location"]
    assert client.get(path).status_code == 200
    gone = client.delete(path)
    assert (gone.status_code, gone.content) == (204, b"")
    for answer in (
        client.get(path),
        client.delete(path),
        client.post(f"{path}/classify", json=bodies(queries=1).query_json),
    ):
        assert (answer.status_code, answer.json()["code"]) == (404, "session_not_found")
    assert teach(client, bodies(seed=10).json).status_code == 201


def test_listing_walks_through_pages(application: Callable[..., httpx.Client], bodies: Callable[..., Any]) -> None:
    client = application()
    made = [teach(client, bodies(seed=seed, shot=1).json).json()["id"] for seed in range(5)]
    teach(client, bodies(seed=9, shot=1).json, "tiny@2")
    seen, cursor = [], None
    while True:
        parameters = {"limit": 2, **({"cursor": cursor} if cursor else {})}
        page = client.get("/v1/sessions", params=parameters).json()
        SessionListOut.model_validate(page, extra="forbid")
        seen += [session["id"] for session in page["sessions"]]
        cursor = page["next_cursor"]
        if cursor is None:
            break
    assert len(seen) == len(set(seen)) == 6
    assert set(made) < set(seen)
    assert client.get("/v1/sessions", params={"model": "wild"}).json() == {"sessions": [], "next_cursor": None}


def test_models_are_described(client: httpx.Client) -> None:
    listed = client.get("/v1/models").json()
    ModelListOut.model_validate(listed, extra="forbid")
    assert [(model["name"], model["version"]) for model in listed["models"]] == [("tiny", "10"), ("wild", "1")]
    tiny = client.get("/v1/models/tiny").json()
    ModelOut.model_validate(tiny, extra="forbid")
    assert tiny == listed["models"][0]
    assert tiny["versions"] == ["2", "10"]
    assert tiny["learner"] == {
        "type": "gradient",
        "inner_steps": 2,
        "network": "conv4",
        "head": "shared",
        "inner": ["sgd"],
    }
    assert tiny["limits"] == {"max_way": 5, "max_support": 30, "max_queries": 50}
    assert client.get("/v1/models/tiny@2").json()["version"] == "2"


@pytest.mark.parametrize(
    "reference", ["none", "tiny@3", "tiny@", "@10", "%2e%2e", "%2e%2e%2fetc", "tiny%00", "x" * 5000, "ünï🙂"]
)
def test_unknown_models_are_404(client: httpx.Client, bodies: Callable[..., Any], reference: str) -> None:
    for answer in (client.get(f"/v1/models/{reference}"), teach(client, bodies().json, reference)):
        assert answer.status_code == 404
        assert answer.json()["code"] in {"model_not_found", "not_found"}


@pytest.mark.parametrize(
    "session", ["s_" + "0" * 32, "s_" + "0" * 31, "S_" + "0" * 32, "x", "s_%00", "a" * 10_000, "🙂", "%0d%0aX: y"]
)
def test_unknown_sessions_are_404(client: httpx.Client, bodies: Callable[..., Any], session: str) -> None:
    for answer in (
        client.get(f"/v1/sessions/{session}"),
        client.delete(f"/v1/sessions/{session}"),
        client.post(f"/v1/sessions/{session}/classify", json=bodies(queries=1).query_json),
        client.post(f"/v1/sessions/{session}/support", json=bodies().json),
    ):
        assert (answer.status_code, answer.json()["code"]) == (404, "session_not_found")


def test_a_diverging_adaptation_is_422_and_leaves_nothing(client: httpx.Client, bodies: Callable[..., Any]) -> None:
    for answer in (
        teach(client, bodies(seed=11).json, "wild"),
        client.post("/v1/models/wild/classify", json=bodies(seed=11, queries=1).json),
    ):
        assert (answer.status_code, answer.json()["code"]) == (422, "adaptation_diverged")
    assert client.get("/v1/sessions", params={"model": "wild"}).json()["sessions"] == []


def test_wishes_for_a_long_life_are_capped(
    application: Callable[..., httpx.Client], bodies: Callable[..., Any]
) -> None:
    client = application(max_ttl_seconds=1000, ttl_seconds=100)
    assert teach(client, bodies(seed=1).json | {"ttl_seconds": 10**15}).json()["ttl_seconds"] == 1000
    assert teach(client, bodies(seed=2).json).json()["ttl_seconds"] == 100
    volatile = [*bodies(seed=3).files, ("ttl_seconds", (None, b"77")), ("durability", (None, b"volatile"))]
    session = client.post("/v1/models/tiny/sessions", files=volatile).json()
    assert (session["ttl_seconds"], session["durability"]) == (77, "volatile")


@pytest.mark.parametrize(
    "parameters",
    [
        {"limit": "0"},
        {"limit": "1001"},
        {"limit": "x"},
        {"limit": "1e2"},
        {"cursor": "nonsense"},
        {"cursor": "a" * 300},
    ],
)
def test_wrong_parameters_are_422_without_an_echo(client: httpx.Client, parameters: dict[str, str]) -> None:
    answer = client.get("/v1/sessions", params=parameters)
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_parameter")
    assert "nonsense" not in answer.text
    assert len(answer.content) < 1000


def test_every_answer_has_an_id_and_times(client: httpx.Client, bodies: Callable[..., Any]) -> None:
    given = client.get("/v1/models", headers={"X-Request-Id": "abc-1.2:3_x"})
    assert given.headers["X-Request-Id"] == "abc-1.2:3_x"
    for insane in ("", "a b", "x" * 65, 'x"y'):
        answer = client.get("/nowhere", headers={"X-Request-Id": insane})
        assert re.fullmatch("[0-9a-f]{32}", answer.headers["X-Request-Id"])
        assert answer.json()["request_id"] == answer.headers["X-Request-Id"]
    taught = teach(client, bodies(seed=12).json)
    phases = re.findall(r"(\w+);dur=([0-9.]+)", taught.headers["Server-Timing"])
    assert [name for name, _ in phases] == ["queue", "decode", "adapt", "predict", "total"]
    assert float(dict(phases)["adapt"]) > 0
    assert float(dict(phases)["total"]) >= float(dict(phases)["adapt"])
