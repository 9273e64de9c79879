"""The commands that talk to a server, from the command line to what they print."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from kshot import Client
from kshot._cli import main
from kshot._commands.output import shorten

Draw = Callable[..., np.ndarray]


@pytest.fixture(autouse=True)
def at_the_double(double: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KSHOT_URL", double.url)
    monkeypatch.delenv("KSHOT_API_KEY", raising=False)


@pytest.fixture
def folder(tmp_path: Path, draw: Draw) -> Path:
    """Two classes with two images each."""
    for label, seed in (("alpha", 1), ("beta", 3)):
        (tmp_path / "signs" / label).mkdir(parents=True)
        for offset in (0, 1):
            Image.fromarray(draw(seed + offset)).save(tmp_path / "signs" / label / f"{offset}.png")
    return tmp_path / "signs"


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """What a command prints; it must succeed."""
    code = main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    assert code == 0, captured.err
    assert captured.err == ""
    return captured.out


def test_adapt_a_folder_then_classify(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shown = run(capsys, "adapt", "omniglot", folder, "--ttl-seconds", 60)
    session = shown.split()[1]
    assert shown == (
        f"session  {session}\nmodel    omniglot@2\nlabels   alpha (2), beta (2)\n"
        f"expires  2026-11-22 09:30 UTC, later with each use\nnext     kshot classify {session} FILE ...\n"
    )
    assert "(known already)" in run(capsys, "adapt", "omniglot", folder)
    files = [folder / "beta" / "1.png", folder / "alpha" / "0.png"]
    lines = run(capsys, "classify", session, *files).splitlines()
    assert lines[0].split() == ["file", "label", "probability"]
    assert [line.split()[:2] for line in lines[1:]] == [[str(files[0]), "beta"], [str(files[1]), "alpha"]]


def test_adapt_labelled_files_as_json(folder: Path, capsys: pytest.CaptureFixture[str], double: Any) -> None:
    pairs = [f"{label}={path}" for label in ("alpha", "beta") for path in sorted((folder / label).iterdir())]
    told = json.loads(run(capsys, "adapt", "omniglot@2", *pairs, "--durability", "volatile", "--json"))
    assert told["labels"] == ["alpha", "beta"]
    assert told["counts"] == {"alpha": 2, "beta": 2}
    assert told["durability"] == "volatile"
    assert told["expires_at"] == "2026-11-22T09:30:00+00:00"
    answers = json.loads(run(capsys, "classify", told["id"], folder / "alpha" / "1.png", "--json"))
    assert [(one["label"], one["unknown"]) for one in answers] == [("alpha", False)]
    assert answers[0]["probabilities"]["alpha"] == answers[0]["probability"]


def test_an_unknown_image_is_marked(folder: Path, capsys: pytest.CaptureFixture[str], double: Any, answer: Any) -> None:
    session = run(capsys, "adapt", "omniglot", folder).split()[1]
    double.faults += [
        answer(200, double.sessions[session]),
        answer(
            200, {"predictions": [{"label": "a", "probability": 0.4, "probabilities": {"a": 0.4}, "unknown": True}]}
        ),
    ]
    assert "a (perhaps none of the classes)  0.4000" in run(capsys, "classify", session, folder / "alpha" / "0.png")


@pytest.mark.parametrize("argument", ["nowhere", "=x.png", "label="])
def test_adapt_with_neither_folder_nor_pair(argument: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["adapt", "omniglot", argument]) == 1
    expected = f"kshot: error: '{argument}' is neither a folder of class folders nor LABEL=FILE\n"
    assert capsys.readouterr().err == expected


def test_models(capsys: pytest.CaptureFixture[str]) -> None:
    listed = run(capsys, "models").splitlines()
    assert listed[1].split() == ["omniglot", "2", "gradient", "28x28x1", "20", "100", "Characters"]
    shown = run(capsys, "models", "omniglot")
    assert shown.startswith("omniglot@2  Characters\n")
    assert "  measured  98.80 ± 0.10 %  5-way 1-shot, omniglot test, support norms, 2000 episodes\n" in shown
    assert json.loads(run(capsys, "models", "omniglot", "--json"))["limits"]["max_way"] == 20
    assert len(json.loads(run(capsys, "models", "--json"))) == 1


def test_sessions(client: Client, draw: Draw, capsys: pytest.CaptureFixture[str], double: Any) -> None:
    first = client.adapt("omniglot", {"a": draw(1), "b": draw(2)})
    second = client.adapt("omniglot", {f"a rather long label {i}": draw(i) for i in range(5)})
    listed = run(capsys, "sessions", "ls").splitlines()
    assert [line.split()[0] for line in listed[1:]] == [first.id, second.id]
    assert listed[1].split()[1:] == ["omniglot@2", "2", "2026-11-22", "09:30", "a,", "b"]
    assert "…" in listed[2]
    assert len(run(capsys, "sessions", "ls", "--limit", 1).splitlines()) == 2
    assert json.loads(run(capsys, "sessions", "ls", "--model", "other", "--json")) == []
    shown = run(capsys, "sessions", "show", first.id)
    assert "  labels      a (1), b (1)\n" in shown
    assert "86400 s after its last use" in shown
    assert json.loads(run(capsys, "sessions", "show", first.id, "--json"))["id"] == first.id
    assert run(capsys, "sessions", "rm", first.id) == f"removed {first.id}\n"
    assert json.loads(run(capsys, "sessions", "rm", second.id, "--json")) == {"removed": [second.id]}
    assert double.sessions == {}


def test_a_gone_session_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sessions", "show", "s_0"]) == 1
    assert capsys.readouterr().err.startswith("kshot: error: 404 session_not_found: ")


def test_no_server_says_where_none_is(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "--url", "http://127.0.0.1:9", "--timeout", "1"]) == 1
    shown = capsys.readouterr().err
    assert shown.startswith("kshot: error: no answer from http://127.0.0.1:9: ")
    assert shown.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["models", "--timeout", "0"], "expected a number of seconds above 0, got '0'"),
        (["models", "--timeout", "soon"], "expected a number of seconds above 0, got 'soon'"),
        (["sessions", "ls", "--limit", "0"], "expected a whole number above 0, got '0'"),
        (["adapt", "omniglot", "x=y", "--ttl-seconds", "1.5"], "expected a whole number above 0, got '1.5'"),
        (["sessions"], "the following arguments are required: ls|show|rm"),
    ],
)
def test_wrong_arguments(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    shown = capsys.readouterr().err
    assert message in shown
    assert shown.count("\n") == 1


def test_the_key_comes_from_the_environment(
    double: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("KSHOT_API_KEY", "secret")
    run(capsys, "models")
    assert double.received[0].headers["authorization"] == "Bearer secret"


def test_shorten() -> None:
    assert shorten("short", 5) == "short"
    assert shorten("0123456789", 5) == "01…89"
    assert shorten("0123456789", 6) == "01…789"
