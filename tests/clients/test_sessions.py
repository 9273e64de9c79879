"""What a session in the caller's hands does by itself: adapt anew, extend, tidy up."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from kshot import APIConnectionError, Client, KshotError, ServerError, SessionNotFoundError

Draw = Callable[..., np.ndarray]


@pytest.fixture
def support(draw: Draw) -> dict[str, np.ndarray]:
    return {"alpha": draw(1), "beta": draw(2)}


def test_an_expired_session_is_taught_again(client: Client, double: Any, support: dict[str, np.ndarray]) -> None:
    session = client.adapt("omniglot", support, ttl_seconds=7)
    name = session.id
    double.sessions.clear()
    assert session.classify(support["beta"])[0].label == "beta"
    assert session.id == name
    assert [request.path for request in double.received][-2:] == [
        "/v1/models/omniglot@2/sessions",  # the version that it was made with
        f"/v1/sessions/{name}/classify",
    ]
    assert session.info().ttl_seconds == 7


def test_a_session_that_goes_between_two_batches(client: Client, double: Any, draw: Draw) -> None:
    session = client.adapt("omniglot", {str(i): draw(i) for i in range(12)})
    double.max_queries = 5
    original = double.predict

    def predict_once(*arguments: Any) -> Any:
        double.sessions.clear()
        double.predict = original
        return original(*arguments)

    double.predict = predict_once
    assert [one.label for one in session.classify([draw(i) for i in range(12)])] == [str(i) for i in range(12)]


def test_opting_out_of_teaching_again(client: Client, double: Any, support: dict[str, np.ndarray]) -> None:
    session = client.adapt("omniglot", support, readapt=False)
    double.sessions.clear()
    with pytest.raises(SessionNotFoundError):
        session.classify(support["beta"])


def test_a_server_that_forgets_at_once_is_not_asked_for_ever(
    client: Client, double: Any, support: Any, answer: Any
) -> None:
    session = client.adapt("omniglot", support)
    double.sessions.clear()
    keep = double.keep

    def forgetful(*arguments: Any) -> Any:
        made = keep(*arguments)
        double.sessions.clear()
        return made

    double.keep = forgetful
    with pytest.raises(SessionNotFoundError):
        session.classify(support["beta"])


def test_extend_is_a_new_session_over_the_union(client: Client, double: Any, support: Any, draw: Draw) -> None:
    session = client.adapt("omniglot", support)
    wider = session.extend({"gamma": draw(3), "alpha": draw(4)}, ttl_seconds=5)
    assert wider.labels == ("alpha", "beta", "gamma")
    assert wider.counts == {"alpha": 2, "beta": 1, "gamma": 1}
    assert session.labels == ("alpha", "beta")
    assert wider.classify(draw(4))[0].label == "alpha"
    double.sessions.clear()
    assert wider.classify(draw(3))[0].label == "gamma"  # adapted anew from the whole union
    assert wider.support_size == 4


def test_extending_an_expired_session(client: Client, double: Any, support: Any, draw: Draw) -> None:
    session = client.adapt("omniglot", support)
    double.sessions.clear()
    assert session.extend([("gamma", draw(3))]).labels == ("alpha", "beta", "gamma")


def test_a_session_found_by_its_id_cannot_be_taught_again(
    client: Client, double: Any, support: Any, draw: Draw
) -> None:
    found = client.session(client.adapt("omniglot", support).id)
    wider = found.extend({"gamma": draw(3)})
    double.sessions.clear()
    for session in (found, wider):
        with pytest.raises(SessionNotFoundError):
            session.classify(draw(1))


def test_a_deleted_session_stays_deleted(client: Client, support: dict[str, np.ndarray]) -> None:
    session = client.adapt("omniglot", support)
    session.delete()
    with pytest.raises(SessionNotFoundError):
        session.classify(support["alpha"])


def test_delete_whose_answer_was_lost_has_succeeded(client: Client, double: Any, support: Any, answer: Any) -> None:
    session = client.adapt("omniglot", support)
    double.sessions.clear()  # done by the first attempt, whose answer is cut off
    double.faults.append(answer(cut=True))
    session.delete()
    with pytest.raises(SessionNotFoundError):
        session.delete()


def test_the_context_deletes_what_it_made(client: Client, double: Any, support: dict[str, np.ndarray]) -> None:
    with client.adapt("omniglot", support) as session:
        assert session.id in double.sessions
        assert session.info().cached  # by now the server knows it; it is this block's all the same
        assert not session.cached
    assert double.sessions == {}
    with client.adapt("omniglot", support) as session:
        double.sessions.clear()  # gone already: nothing to delete, nothing to complain about


def test_the_context_leaves_what_was_there_before(client: Client, double: Any, support: dict[str, np.ndarray]) -> None:
    first = client.adapt("omniglot", support)
    with client.adapt("omniglot", support) as again, client.session(first.id) as found:
        assert again.cached
        assert found.cached
    assert first.id in double.sessions


def test_an_error_in_the_block_is_not_hidden(client: Client, double: Any, support: dict[str, np.ndarray]) -> None:
    with pytest.raises(ZeroDivisionError), client.adapt("omniglot", support):  # noqa: PT012 - the block is the subject
        double.fail(500)
        raise ZeroDivisionError
    with pytest.raises(ServerError), client.adapt("omniglot", support | {"gamma": support["alpha"]}):
        double.fail(500)


def test_repr_shortens_long_lists_of_labels(client: Client, draw: Draw) -> None:
    session = client.adapt("omniglot", {str(i): draw(i) for i in range(9)})
    assert repr(session).endswith("omniglot@2 ['0', '1', '2', '3', '4', ...]>")


def test_no_server() -> None:
    with (
        Client("http://127.0.0.1:9", retries=0) as client,
        pytest.raises(APIConnectionError, match="Is a kshot server"),
    ):
        client.adapt("omniglot", {"a": np.zeros((2, 2), np.uint8)})
    assert issubclass(APIConnectionError, KshotError)
