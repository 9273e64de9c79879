"""Who is asking: API keys and the tenants that they stand for.

Keys come from a file, or from a variable, of `tenant:key` lines. A tenant may have several keys, so that one can be
replaced without a pause. No keys at all means one tenant, "default", and settings.py then allows loopback only.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Mapping
from pathlib import Path

from kshot_server.settings import SettingError

__all__ = ["DEFAULT_TENANT", "ApiKeys", "load_api_keys"]

DEFAULT_TENANT = "default"
MIN_KEY_LENGTH = 16
_TENANT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


class ApiKeys:
    """The table of keys. It keeps digests, not keys: a dump of the process shows none."""

    def __init__(self, keys: Mapping[str, str]) -> None:
        """Args: keys, key -> tenant."""
        self._tenants = [(_digest(key), tenant) for key, tenant in keys.items()]

    def __repr__(self) -> str:
        return f"ApiKeys({len(self._tenants)} keys)"

    @property
    def required(self) -> bool:
        """Whether a request needs a key."""
        return bool(self._tenants)

    def tenant_of(self, key: str | None) -> str | None:
        """The tenant that a key stands for, None if it stands for none.

        Every entry is compared, each in the same time: how long a refusal takes says nothing about the keys.
        """
        if not self._tenants:
            return DEFAULT_TENANT
        given = _digest(key or "")
        found: str | None = None
        for digest, tenant in self._tenants:
            if hmac.compare_digest(digest, given):
                found = tenant
        return found if key else None


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()


def load_api_keys(source: str, environment: Mapping[str, str]) -> ApiKeys:
    """Read the keys.

    Args:
        source: "" for none, `env:NAME`, or the path of a file. Lines are `tenant:key`; empty lines and `# ...` are
            skipped, and in a variable commas may stand for line ends.
        environment: normally `os.environ`.

    Raises:
        SettingError: the source cannot be read or a line is wrong; its number is told, never its content.
    """
    if not source:
        return ApiKeys({})
    keys: dict[str, str] = {}
    for number, raw in enumerate(_lines(source, environment), start=1):
        line = raw.strip()
        if not line or line.startswith("#"):
            continue
        tenant, _, key = line.partition(":")
        if (
            not _TENANT.fullmatch(tenant)
            or len(key) < MIN_KEY_LENGTH
            or not key.isascii()
            or not key.isprintable()
            or " " in key
        ):
            raise SettingError(
                f"--api-keys {source}, line {number}: expected tenant:key, "
                "the tenant of letters, digits, '.', '_' or '-', "
                f"the key of {MIN_KEY_LENGTH} or more printable ASCII characters"
            )
        if keys.setdefault(key, tenant) != tenant:
            raise SettingError(f"--api-keys {source}, line {number}: this key belongs to another tenant already")
    if not keys:
        raise SettingError(f"--api-keys {source}: expected at least one tenant:key line, found none")
    return ApiKeys(keys)


def _lines(source: str, environment: Mapping[str, str]) -> list[str]:
    if source.startswith("env:"):
        name = source.removeprefix("env:")
        if name not in environment:
            raise SettingError(f"--api-keys {source}: the variable {name} is not set")
        return environment[name].replace(",", "\n").splitlines()
    try:
        return Path(source).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise SettingError(f"--api-keys {source}: cannot be read: {error}") from None
