"""The verbs of the blocking client, against a server that really learns."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import kshot
from kshot import Client, InvalidInputError, ModelNotFoundError, SessionNotFoundError

Draw = Callable[..., np.ndarray]


@pytest.fixture
def support(draw: Draw) -> dict[str, np.ndarray]:
    return {"alpha": draw(1), "beta": draw(2), "gamma": draw(3)}


def test_adapt_and_classify_arrays(client: Client, double: Any, support: dict[str, np.ndarray]) -> None:
    session = client.adapt("omniglot", support, ttl_seconds=60, durability="volatile")
    assert session.labels == ("alpha", "beta", "gamma")
    assert (session.model, session.version, session.support_size, session.cached) == ("omniglot", "2", 3, False)
    assert session.counts == {"alpha": 1, "beta": 1, "gamma": 1}
    assert session.expires_at == datetime(2026, 11, 22, 9, 30, tzinfo=UTC)
    predictions = session.classify([support["gamma"], support["alpha"]])
    assert [one.label for one in predictions] == ["gamma", "alpha"]
    assert predictions[0].probability == predictions[0].probabilities["gamma"] > 0.9
    assert sum(predictions[0].probabilities.values()) == pytest.approx(1)
    assert double.received[0].headers["content-type"] == "application/x-safetensors"
    assert double.parsed[0].options == {"ttl_seconds": "60", "durability": "volatile"}
    assert f"<kshot.Session {session.id} omniglot@2 ['alpha', 'beta', 'gamma']>" == repr(session)


def test_files_go_as_multipart(client: Client, double: Any, support: dict[str, np.ndarray], tmp_path: Path) -> None:
    paths = {}
    for label, pixels in support.items():
        paths[label] = tmp_path / f"{label}.png"
        Image.fromarray(pixels).save(paths[label])
    session = client.adapt("omniglot@2", paths)
    (prediction,) = session.classify(str(paths["beta"]))
    assert prediction.label == "beta"
    assert {one.headers["content-type"].partition(";")[0] for one in double.received} == {"multipart/form-data"}
    assert session.id == client.adapt("omniglot", support).id


def test_odd_labels_go_as_json(client: Client, double: Any, support: dict[str, np.ndarray]) -> None:
    files = {f'"{label}"': Image.fromarray(pixels) for label, pixels in support.items()}
    session = client.adapt("omniglot", files, ttl_seconds=9)
    assert session.labels == ('"alpha"', '"beta"', '"gamma"')
    assert double.received[0].headers["content-type"] == "application/json"
    assert session.info().ttl_seconds == 9


def test_the_same_support_set_is_the_same_session(client: Client, support: dict[str, np.ndarray]) -> None:
    first = client.adapt("omniglot", support)
    again = client.adapt("omniglot", dict(reversed(support.items())))
    assert first.id == again.id
    assert (first.cached, again.cached) == (False, True)


def test_long_query_lists_are_cut_by_the_models_limit(client: Client, double: Any, draw: Draw) -> None:
    session = client.adapt("omniglot", {str(i): draw(i) for i in range(20)})
    predictions = session.classify(np.stack([draw(i) for i in range(20)]))
    assert [one.label for one in predictions] == [str(i) for i in range(20)]
    assert [len(parsed.queries) for parsed in double.parsed[1:]] == [8, 8, 4]
    assert [one.path for one in double.received].count("/v1/models/omniglot@2") == 1
    session.classify(np.stack([draw(i) for i in range(2)]))
    assert sum(one.path.startswith("/v1/models/omniglot") for one in double.received) == 2  # asked once, adapted once


def test_long_query_lists_are_cut_by_bytes(double: Any, draw: Draw, support: dict[str, np.ndarray]) -> None:
    with Client(double.url, max_body_bytes=300) as client:
        session = client.adapt("omniglot", support)
        assert len(session.classify([draw(i) for i in range(5)])) == 5
    assert [len(parsed.queries) for parsed in double.parsed[1:]] == [2, 2, 1]


def test_no_queries_no_request(client: Client, double: Any, support: dict[str, np.ndarray]) -> None:
    session = client.adapt("omniglot", support)
    count = len(double.received)
    assert session.classify([]) == []
    assert client.classify("omniglot", support, []) == []
    assert len(double.received) == count


def test_one_call(client: Client, double: Any, support: dict[str, np.ndarray]) -> None:
    predictions = client.classify("omniglot", support, [support["beta"]], ttl_seconds=5)
    assert [one.label for one in predictions] == ["beta"]
    assert [one.path for one in double.received] == ["/v1/models/omniglot/classify"]
    assert double.parsed[0].options == {"ttl_seconds": "5"}


def test_one_call_that_does_not_fit_becomes_a_session(client: Client, double: Any, support: dict[str, Any]) -> None:
    queries = list(support.values()) * 4
    predictions = client.classify("omniglot", support, queries)
    assert [one.label for one in predictions] == list(support) * 4
    assert sum(one.path.endswith("/sessions") for one in double.received) == 1
    assert [len(parsed.queries) for parsed in double.parsed] == [0, 8, 4]


def test_models(client: Client) -> None:
    (model,) = client.models()
    assert model == client.model("omniglot")
    assert (model.name, model.version, model.versions) == ("omniglot", "2", ("1", "2"))
    assert model.input == kshot.InputSpec(28, 28, 1, (0.9,), (0.3,), "box")
    assert model.limits == kshot.Limits(20, 100, 8)
    assert model.learner["inner_steps"] == 5
    assert (model.measured[0].accuracy, model.measured[0].way) == (0.988, 5)
    with pytest.raises(ModelNotFoundError):
        client.model("nothing")


def test_values_are_frozen_and_hashable(client: Client, support: dict[str, np.ndarray]) -> None:
    session = client.adapt("omniglot", support)
    values = [session.info(), session.classify(support["alpha"])[0], client.model("omniglot")]
    assert len(set(values)) == 3
    for value in values:
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(value, dataclasses.fields(value)[0].name, "other")


def test_sessions_by_id_in_pages(client: Client, draw: Draw) -> None:
    made = [client.adapt("omniglot", {"a": draw(i), "b": draw(i + 100)}) for i in range(5)]
    assert [info.id for info in client.sessions(page_size=2)] == [session.id for session in made]
    assert list(client.sessions(model="other")) == []
    found = client.session(made[3].id)
    assert (found.id, found.labels) == (made[3].id, ("a", "b"))
    assert found.classify(draw(103))[0].label == "b"
    client.delete_session(made[3].id)
    with pytest.raises(SessionNotFoundError):
        found.info()
    with pytest.raises(SessionNotFoundError):
        client.delete_session(made[3].id)


@pytest.mark.parametrize("name", ["", ".", "..", "x" * 600])
def test_names_that_no_path_carries(client: Client, double: Any, name: str) -> None:
    with pytest.raises(InvalidInputError, match="is no name of a model"):
        client.model(name)
    with pytest.raises(InvalidInputError, match="is no name of a session"):
        client.session(name)
    assert double.received == []


@pytest.mark.parametrize("name", ["../../livez", "a b", "ä?x=1#f", "a/b", "\ud800", "%2e%2e"])
def test_other_names_stay_one_segment_of_the_path(client: Client, double: Any, name: str) -> None:
    with pytest.raises(ModelNotFoundError):
        client.model(name)
    (request,) = double.received
    assert request.path.startswith("/v1/models/")
    assert request.path.count("/") == 3
    assert "?" not in request.path


def test_headers_of_every_request(double: Any) -> None:
    with Client(double.url, api_key="key", headers={"X-Team": "blue"}, timeout=20) as client:
        client.models()
        client.with_options(timeout=None).models()
    first, second = double.received
    assert first.headers["authorization"] == "Bearer key"
    assert first.headers["x-team"] == "blue"
    assert first.headers["user-agent"] == f"kshot-python/{kshot.__version__}"
    assert first.headers["x-timeout-seconds"] == "18.000"
    assert "x-timeout-seconds" not in second.headers
    assert first.headers["x-request-id"] != second.headers["x-request-id"]


def test_a_base_url_may_have_a_path(double: Any) -> None:
    with Client(f"{double.url}/behind/a/proxy/", retries=0) as client, pytest.raises(kshot.NotFoundError):
        client.models()
    assert double.received[0].path == "/behind/a/proxy/v1/models"


def test_ready(double: Any) -> None:
    with Client(double.url) as client:
        assert client.ready()
        double.fail(503)
        assert not client.ready()
    with Client("http://127.0.0.1:9") as client:
        assert not client.ready()


def test_copies_share_connections_and_outlive_nothing(client: Client, double: Any) -> None:
    patient = client.with_options(timeout=60, retries=9)
    assert patient._http is client._http
    assert patient._settings.retry.retries == 9
    assert patient.models() == client.models()
    client.close()
    with pytest.raises(RuntimeError, match="closed"):
        patient.models()


def test_expiry_moves_with_use_on_the_server_only(client: Client, support: dict[str, np.ndarray], double: Any) -> None:
    session = client.adapt("omniglot", support)
    before = session.expires_at
    double.sessions[session.id]["expires_at"] = "2026-11-23T09:30:00Z"
    assert session.expires_at == before
    assert session.info().expires_at - before == timedelta(days=1)
    assert session.expires_at - before == timedelta(days=1)
