"""Getting Omniglot: the two official zips, fetched or at hand, unpacked and counted.

images_background.zip ──check names and counts──> images_background.partial/ ──rename──> images_background/
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path, PurePosixPath

import httpx

from kshot_training.data.errors import ArchiveInvalid, DownloadFailed, SourceNotFound
from kshot_training.data.files import open_tree
from kshot_training.data.omniglot import check_counts, group_characters

__all__ = ["OFFICIAL_URL", "Progress", "download", "has_half", "unpack"]

OFFICIAL_URL = "https://raw.githubusercontent.com/brendenlake/omniglot/master/python"
"""The folder of the zips, as their author publishes them."""

Progress = Callable[[int, int | None], None]
"""Called with the work done and, where it is known, the whole of it."""

_TIMEOUT_SECONDS = 30.0  # without a byte


def download(half: str, folder: Path, *, progress: Progress, base_url: str = OFFICIAL_URL) -> Path:
    """Fetch the zip of one half.

    Args:
        half: "images_background" or "images_evaluation".
        folder: where it goes, made if need be; the file appears there when it is whole.
        progress: called with bytes.
        base_url: the folder that has the zips.

    Returns:
        The path of the zip.

    Raises:
        DownloadFailed: saying what to do without the network.
    """
    url = f"{base_url}/{half}.zip"
    path = folder / f"{half}.zip"
    partial = folder / f"{half}.zip.partial"
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with httpx.stream("GET", url, follow_redirects=True, timeout=_TIMEOUT_SECONDS) as response:
            response.raise_for_status()
            length = response.headers.get("Content-Length", "")
            total = int(length) if length.isdecimal() else None
            with partial.open("wb") as file:
                for chunk in response.iter_bytes():
                    file.write(chunk)
                    progress(response.num_bytes_downloaded, total)
        partial.replace(path)
    except httpx.HTTPError as error:
        if isinstance(error, httpx.HTTPStatusError):
            reason = f"HTTP {error.response.status_code}"
        else:
            reason = str(error) or type(error).__name__
        raise DownloadFailed(
            f"{url}: {reason}. Without the network: fetch {half}.zip elsewhere and give its folder with --from"
        ) from error
    finally:
        partial.unlink(missing_ok=True)
    return path


def unpack(half: str, source: Path, folder: Path, *, progress: Progress) -> Path:
    """Unpack the zip of one half, after counting what is in it.

    Args:
        half: "images_background" or "images_evaluation".
        source: the folder that has `HALF.zip`.
        folder: where `HALF/` goes; it appears there when it is whole, and is left alone when it is there already.
        progress: called with files.

    Returns:
        The unpacked folder.

    Raises:
        SourceNotFound: no such zip.
        ArchiveInvalid: a broken zip, or one of another layout.
        CountMismatch: characters or drawings are missing.
    """
    target, archive = folder / half, source / f"{half}.zip"
    if not target.is_dir():
        if not archive.is_file():
            raise SourceNotFound(f"expected {archive}, where there is nothing: give the folder of the zips with --from")
        partial = folder / f"{half}.partial"
        shutil.rmtree(partial, ignore_errors=True)
        try:
            _extract(half, archive, partial, progress)
            partial.rename(target)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    with open_tree(target) as tree:
        check_counts(half, group_characters(tree.names), where=target)
    return target


def has_half(half: str, folder: Path) -> bool:
    """Whether the unpacked half or its zip is there."""
    return (folder / half).is_dir() or (folder / f"{half}.zip").is_file()


def _extract(half: str, archive: Path, target: Path, progress: Progress) -> None:
    with open_tree(archive) as tree:
        check_counts(half, group_characters(tree.names), where=archive)
        made: Path | None = None
        for done, name in enumerate(tree.names, start=1):
            *above, alphabet, character, file = PurePosixPath(name).parts
            if above != [half] or {alphabet, character, file} & {"..", "."}:
                raise ArchiveInvalid(f"{archive}: expected {half}/ALPHABET/CHARACTER/FILE.png, got {name}")
            folder = target / alphabet / character
            if folder != made:  # names are sorted, so this is once a character
                folder.mkdir(parents=True, exist_ok=True)
                made = folder
            (folder / file).write_bytes(tree.read(name))
            progress(done, len(tree.names))
