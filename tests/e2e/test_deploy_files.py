"""The files of server/deploy and the Dockerfile agree with the server and with one another."""

from __future__ import annotations

import re
from pathlib import Path

from kshot_server.settings import Settings, read_settings

REPOSITORY = Path(__file__).resolve().parents[2]
DEPLOY = REPOSITORY / "server" / "deploy"


def _nginx(directive: str) -> str:
    (value,) = re.findall(rf"^\s*{directive} (.+);$", (DEPLOY / "nginx.conf").read_text(), re.MULTILINE)
    return str(value)


def _seconds(text: str) -> float:
    return float(text.removesuffix("s"))


def test_variables_are_settings_of_the_server() -> None:
    given = dict(
        re.findall(r"^ *(KSHOT_\w+)[:=] ?(\S+?)(?: \\)?$", (REPOSITORY / "Dockerfile").read_text(), re.MULTILINE)
    )
    given |= dict(re.findall(r"^ *(KSHOT_\w+): (\S+)$", (DEPLOY / "compose.yaml").read_text(), re.MULTILINE))
    assert {"KSHOT_HOST", "KSHOT_PORT", "KSHOT_STORE", "KSHOT_API_KEYS"} <= given.keys()
    settings = read_settings({}, given)
    assert (settings.host, settings.port) == ("0.0.0.0", 8000)


def test_nginx_takes_the_bodies_that_the_server_takes() -> None:
    assert _nginx("client_max_body_size") == f"{Settings().max_body_bytes >> 20}m"
    assert f"{Settings().max_body_bytes >> 20} MiB" in (DEPLOY / "nginx.conf").read_text()


def test_those_who_wait_wait_longer_than_the_server_works() -> None:
    assert _seconds(_nginx("proxy_read_timeout")) > Settings().timeout
    (grace,) = re.findall(r"stop_grace_period: (\S+)", (DEPLOY / "compose.yaml").read_text())
    (stop,) = re.findall(r"TimeoutStopSec=(\S+)", (DEPLOY / "kshot.service").read_text())
    assert min(_seconds(grace), _seconds(stop)) > Settings().timeout + 5


def test_replicas_have_the_same_names_everywhere() -> None:
    listed = re.findall(r"^server (\S+):8000 max_fails=0;$", (DEPLOY / "replicas.conf").read_text(), re.MULTILINE)
    services = re.findall(r"^  (kshot-\d+):$", (DEPLOY / "compose.yaml").read_text(), re.MULTILINE)
    assert listed == services
