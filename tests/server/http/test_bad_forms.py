"""Multipart forms that a stranger may send, through HTTP: the right 4xx, and labels of every kind."""

from __future__ import annotations

from collections.abc import Callable

import httpx
import pytest

from .refused import refused

TEACH = "/v1/models/tiny/sessions"


FORM = {"Content-Type": "multipart/form-data; boundary=xx"}


def test_labels_of_every_kind_in_a_form(client: httpx.Client, image: Callable[[int], bytes]) -> None:
    labels = ['say "hi"', "猫", "a]b", "[", "%41"]
    files = [(f"support[{label}]", ("a.png", image(i), "image/png")) for i, label in enumerate(labels)]
    answer = client.post(TEACH, files=files)
    assert answer.json()["labels"] == sorted(labels)


def part(name: str, content: bytes = b"x", headers: str = "") -> bytes:
    return f'--xx\r\nContent-Disposition: form-data; name="{name}"\r\n{headers}\r\n'.encode() + content + b"\r\n"


FORMS = {
    "empty": b"",
    "garbage": bytes(range(256)),
    "cut": part("support[a]"),
    "no name": b"--xx\r\nContent-Disposition: form-data\r\n\r\nx\r\n--xx--\r\n",
    "no disposition": b"--xx\r\nContent-Type: image/png\r\n\r\nx\r\n--xx--\r\n",
    "attachment": b'--xx\r\nContent-Disposition: attachment; name="support[a]"\r\n\r\nx\r\n--xx--\r\n',
    "another name": part("file") + b"--xx--\r\n",
    "queries": part("queries") + b"--xx--\r\n",
    "option twice": part("ttl_seconds", b"5") * 2 + b"--xx--\r\n",
    "option of another type": part("ttl_seconds", b"\xb2") + b"--xx--\r\n",
    "unknown durability": part("durability", b"both") + b"--xx--\r\n",
    "name no UTF-8": b'--xx\r\nContent-Disposition: form-data; name="support[\xff]"\r\n\r\nx\r\n--xx--\r\n',
    "10 MB header": part("support[a]", headers="X: " + "y" * 10_000_000 + "\r\n") + b"--xx--\r\n",
    "10^5 parts": part("support[a]") * 100_000 + b"--xx--\r\n",
    "base64 part": part("support[a]", headers="Content-Transfer-Encoding: base64\r\n") + b"--xx--\r\n",
}


@pytest.mark.parametrize("name", FORMS)
def test_forms(client: httpx.Client, name: str) -> None:
    refused(client.post(TEACH, content=FORMS[name], headers=FORM), 422, "invalid_body")


@pytest.mark.parametrize("boundary", ["", "; boundary=", f"; boundary={'x' * 71}", "; boundary=yy"])
def test_boundaries(client: httpx.Client, boundary: str) -> None:
    headers = {"Content-Type": f"multipart/form-data{boundary}"}
    refused(client.post(TEACH, content=part("support[a]") + b"--xx--\r\n", headers=headers), 422, "invalid_body")


def test_an_empty_form_has_no_support(client: httpx.Client) -> None:
    refused(
        client.post(TEACH, content=part("durability", b"durable") + b"--xx--\r\n", headers=FORM), 422, "empty_support"
    )
