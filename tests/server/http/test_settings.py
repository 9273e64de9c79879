"""Settings: flags, variables, and what they refuse."""

from __future__ import annotations

import argparse
import dataclasses
import os
from pathlib import Path

import pytest

from kshot_server.auth import DEFAULT_TENANT, ApiKeys, load_api_keys
from kshot_server.devices import devices_of
from kshot_server.settings import SettingError, Settings, add_flags, flag_name, read_settings, variable_name


def parse(*flags: str, **variables: str) -> Settings:
    parser = argparse.ArgumentParser()
    add_flags(parser)
    return read_settings(vars(parser.parse_args(flags)), variables)


def test_nothing_said_is_the_default() -> None:
    assert parse() == Settings()


def test_every_field_is_a_flag_and_a_variable_and_is_explained() -> None:
    parser = argparse.ArgumentParser()
    add_flags(parser)
    text = " ".join(parser.format_help().split())
    for item in dataclasses.fields(Settings):
        assert flag_name(item.name) in text
        assert variable_name(item.name) in text
        assert item.metadata["help"].split(":")[0].split("{")[0][:30] in text


def test_a_flag_wins_over_a_variable() -> None:
    assert parse(KSHOT_PORT="9000", KSHOT_TIMEOUT="2.5").port == 9000
    assert parse("--port", "9001", KSHOT_PORT="9000", KSHOT_TIMEOUT="2.5") == Settings(port=9001, timeout=2.5)


def test_values_are_read_as_what_they_are() -> None:
    settings = parse("--models", os.pathsep.join(["a", "b"]), "--host", "localhost", "--allow-transductive")
    assert settings.models == (Path("a"), Path("b"))
    assert settings.host == "127.0.0.1"
    assert settings.allow_transductive is True
    assert parse(KSHOT_ALLOW_TRANSDUCTIVE="no").allow_transductive is False


@pytest.mark.parametrize(
    ("flags", "variables", "message"),
    [
        (("--port", "80"), {}, "--port: expected 1024 to 65535, got 80"),
        (("--port", "x"), {}, "--port: expected a whole number, got 'x'"),
        (("--timeout", "nan"), {}, "--timeout: expected 0.05 to 3600"),
        (("--timeout", "soon"), {}, "--timeout: expected a number"),
        (("--log-level", "loud"), {}, "--log-level: expected one of debug"),
        (("--host", "192.168.0.1"), {}, "--host: expected 127.0.0.1"),
        ((), {"KSHOT_MAX_INFLIGHT": "0"}, "KSHOT_MAX_INFLIGHT: expected 1 to"),
        ((), {"KSHOT_ALLOW_TRANSDUCTIVE": "maybe"}, "KSHOT_ALLOW_TRANSDUCTIVE: expected 1, true"),
        ((), {"KSHOT_PROT": "1"}, "KSHOT_PROT is no setting of the server; did you mean KSHOT_PORT?"),
        ((), {"KSHOT_ZZZZZZ": "1"}, "`kshot serve --help` lists them"),
        (("--host", "0.0.0.0"), {}, "needs --api-keys"),
        (("--api-servers", "2"), {}, "needs a store that the processes share"),
        (("--ttl-seconds", "100", "--max-ttl-seconds", "50"), {}, "is above --max-ttl-seconds"),
    ],
)  # fmt: skip
def test_what_cannot_be_used_is_refused(flags: tuple[str, ...], variables: dict[str, str], message: str) -> None:
    with pytest.raises(SettingError, match=message.replace("?", r"\?").replace("(", r"\(")):
        parse(*flags, **variables)


def test_variables_of_others_are_left_alone() -> None:
    assert parse(KSHOT_URL="http://x", KSHOT_API_KEY="k", KSHOT_OMNIGLOT="/x", PATH="/bin") == Settings()
    named = parse("--api-keys", "env:KSHOT_SECRET_KEYS", KSHOT_SECRET_KEYS="a:b")
    assert named.api_keys == "env:KSHOT_SECRET_KEYS"


# -- keys --------------------------------------------------------------------------------------------------------------


def test_keys_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text("# ours\n\nalice:0123456789abcdef\nalice:fedcba9876543210\nbob: not stripped of what is inside\n")
    with pytest.raises(SettingError, match="line 5"):
        load_api_keys(str(file), {})
    file.write_text("# ours\n\nalice:0123456789abcdef\nalice:fedcba9876543210\nbob:a:colon-is-part-of-it\n")
    keys = load_api_keys(str(file), {})
    assert keys.required
    assert [keys.tenant_of(k) for k in ("0123456789abcdef", "fedcba9876543210", "a:colon-is-part-of-it")] == [
        "alice",
        "alice",
        "bob",
    ]
    for unknown in (None, "", "0123456789abcde", "0123456789abcdef ", "\udcff", "alice:0123456789abcdef"):
        assert keys.tenant_of(unknown) is None


def test_keys_from_a_variable() -> None:
    keys = load_api_keys("env:KEYS", {"KEYS": "alice:0123456789abcdef,bob:0123456789abcdeg"})
    assert keys.tenant_of("0123456789abcdeg") == "bob"


def test_no_keys_is_one_tenant() -> None:
    keys = load_api_keys("", {})
    assert not keys.required
    assert keys.tenant_of(None) == keys.tenant_of("anything") == DEFAULT_TENANT


@pytest.mark.parametrize(
    "line",
    [
        "alice",
        "alice:short",
        ":0123456789abcdef",
        "a b:0123456789abcdef",
        "alice:0123456789abcdé",
        "alice:0123456789 abcdef",
    ],
)
def test_wrong_lines_are_named_and_not_shown(line: str) -> None:
    with pytest.raises(SettingError, match="line 2") as caught:
        load_api_keys("env:KEYS", {"KEYS": f"bob:0123456789abcdef\n{line}"})
    assert line not in str(caught.value)


def test_other_key_sources_that_fail(tmp_path: Path) -> None:
    for source, environment in (
        ("env:NONE", {}),
        (str(tmp_path / "none"), {}),
        ("env:EMPTY", {"EMPTY": "# nothing"}),
        ("env:TWICE", {"TWICE": "a:0123456789abcdef\nb:0123456789abcdef"}),
    ):
        with pytest.raises(SettingError, match="--api-keys"):
            load_api_keys(source, environment)


def test_keys_hide_themselves() -> None:
    assert "0123456789abcdef" not in repr(vars(ApiKeys({"0123456789abcdef": "alice"}))) + repr(ApiKeys({"x": "y"}))


# -- devices -----------------------------------------------------------------------------------------------------------


def test_devices_are_checked() -> None:
    assert devices_of("cpu", {}) == ("cpu",)
    assert devices_of("cuda:0,cuda:1", {}) == ("cuda:0", "cuda:1")
    for wrong in ("gpu", "cuda:", "cuda:0,cuda:0", "cpu,", "cuda:-1"):
        with pytest.raises(SettingError, match="--device"):
            devices_of(wrong, {})


def test_auto_is_every_gpu_that_is_visible(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kshot_server.devices._torch_uses_cuda", lambda: True)
    assert devices_of("auto", {}, tmp_path / "none") == ("cpu",)
    for i in range(3):
        (tmp_path / f"0000:0{i}:00.0").mkdir()
    assert devices_of("auto", {}, tmp_path) == ("cuda:0", "cuda:1", "cuda:2")
    assert devices_of("auto", {"CUDA_VISIBLE_DEVICES": "1,2"}, tmp_path) == ("cuda:0", "cuda:1")
    for none in ("", "-1"):
        assert devices_of("auto", {"CUDA_VISIBLE_DEVICES": none}, tmp_path) == ("cpu",)


def test_auto_is_the_cpu_when_torch_has_no_cuda(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    (tmp_path / "0000:01:00.0").mkdir()
    expected = ("cuda:0",) if torch.version.cuda else ("cpu",)
    assert devices_of("auto", {}, tmp_path) == expected
