"""Fetching and unpacking Omniglot, against a real HTTP server on loopback."""

from __future__ import annotations

import functools
import http.server
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from kshot_training.data.errors import ArchiveInvalid, CountMismatch, DownloadFailed, SourceNotFound
from kshot_training.data.omniglot_archive import download, has_half, unpack

HALF = "images_evaluation"


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name of the base class
        pass


@pytest.fixture
def site(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """A URL, and the folder that it serves."""
    folder = tmp_path / "site"
    folder.mkdir()
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", folder
    server.shutdown()
    thread.join()
    server.server_close()


def nothing(done: int, total: int | None) -> None:
    pass


def write_zip(folder: Path, names: list[str]) -> None:
    with zipfile.ZipFile(folder / f"{HALF}.zip", "w") as archive:
        for name in names:
            archive.writestr(name, b"bytes")


def full(prefix: str = HALF) -> list[str]:
    return [f"{prefix}/Alphabet/character{c:03d}/{c:04d}_{d:02d}.png" for c in range(659) for d in range(20)]


def test_download(site: tuple[str, Path], tmp_path: Path) -> None:
    url, folder = site
    data = bytes(range(256)) * 1000
    (folder / f"{HALF}.zip").write_bytes(data)
    seen: list[tuple[int, int | None]] = []
    path = download(HALF, tmp_path / "new/folder", progress=lambda *done: seen.append(done), base_url=url)
    assert path.read_bytes() == data
    assert seen[-1] == (len(data), len(data))
    assert has_half(HALF, path.parent)
    assert [file.name for file in path.parent.iterdir()] == [f"{HALF}.zip"]


def test_a_failed_download_leaves_nothing_and_says_what_to_do(site: tuple[str, Path], tmp_path: Path) -> None:
    url, _ = site
    target = tmp_path / "target"
    with pytest.raises(
        DownloadFailed, match=r"zip: HTTP 404\. Without the network: fetch images_evaluation.zip .* --from"
    ):
        download(HALF, target, progress=nothing, base_url=url)
    with pytest.raises(DownloadFailed, match=r"http://127.0.0.1:1/images_evaluation.zip: "):
        download(HALF, target, progress=nothing, base_url="http://127.0.0.1:1")
    assert list(target.iterdir()) == []
    assert not has_half(HALF, target)


def test_no_zip(tmp_path: Path) -> None:
    with pytest.raises(SourceNotFound, match=r"expected .*images_evaluation.zip, .* with --from"):
        unpack(HALF, tmp_path, tmp_path / "to", progress=nothing)


def test_a_zip_with_too_little(tmp_path: Path) -> None:
    write_zip(tmp_path, full()[:-20])
    with pytest.raises(CountMismatch, match="expected 659 characters, got 658"):
        unpack(HALF, tmp_path, tmp_path, progress=nothing)
    assert [file.name for file in tmp_path.iterdir()] == [f"{HALF}.zip"]


@pytest.mark.parametrize("prefix", ["elsewhere", f"../{HALF}", f"/{HALF}", f"{HALF}/.."])
def test_a_zip_of_another_layout_writes_nothing_outside(tmp_path: Path, prefix: str) -> None:
    folder = tmp_path / "inner"
    folder.mkdir()
    write_zip(folder, full(prefix))
    with pytest.raises((ArchiveInvalid, CountMismatch)):
        unpack(HALF, folder, folder, progress=nothing)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["images_evaluation.zip", "inner"]
