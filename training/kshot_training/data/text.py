"""Long documents of text: a file is a document, and a folder is as many as it has files of text.

    load_documents("text:PATH") ──> documents, by name ──> split_documents ──> parts that share no document
                                                       └─> Alphabet ──> characters as numbers

A split is a function of the documents' names alone: it stays when a document's text changes.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from kshot_training.data.errors import CountMismatch, SourceNotFound, SourceUnknown

__all__ = ["Alphabet", "Document", "load_documents", "split_documents"]

_SUFFIXES = frozenset({"", ".md", ".py", ".rst", ".txt"})
OTHER = 0  # the number of every character that an alphabet does not have


class Document(NamedTuple):
    """A text and where it stands in its folder, with slashes."""

    name: str
    text: str


def load_documents(source: str, *, root: Path | None = None, minimum: int = 1) -> list[Document]:
    """Read all documents of a source.

    Args:
        source: "text:PATH"; a folder is searched through, for files that end in .txt, .rst, .md, .py or in nothing.
        root: the folder that a relative path starts from.
        minimum: characters that a document has at least; shorter ones are left out.

    Returns:
        the documents in the order of their names. A file that is no UTF-8 is none.

    Raises:
        SourceUnknown: `source` is of another form.
        SourceNotFound: there is nothing, or no document of that length.
    """
    kind, _, argument = source.partition(":")
    if kind != "text" or not argument:
        raise SourceUnknown(f"expected documents as text:PATH, a file or a folder, got {source!r}")
    path = (root or Path()) / Path(argument).expanduser()
    if not path.exists():
        raise SourceNotFound(f"expected text at {path}, where there is nothing")
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    base = path.parent if path.is_file() else path
    found = [
        Document(file.relative_to(base).as_posix(), text)
        for file in files
        if (file == path or file.suffix in _SUFFIXES) and len(text := _text(file)) >= minimum
    ]
    if not found:
        raise SourceNotFound(f"expected documents of at least {minimum} characters in {path}, found none")
    return sorted(found)


def split_documents(documents: Sequence[Document], shares: Mapping[str, float]) -> dict[str, list[Document]]:
    """Cut the documents into parts, in the order of the SHA-256 of their names.

    Args:
        documents: in any order.
        shares: of the parts, by name; they are divided by their sum.

    Raises:
        CountMismatch: a part would be without any.
    """
    ordered = sorted(documents, key=lambda document: hashlib.sha256(document.name.encode()).digest())
    total, begun, parts = sum(shares.values()), 0.0, {}
    for name, share in shares.items():
        first, begun = round(len(ordered) * begun / total), begun + share
        parts[name] = ordered[first : round(len(ordered) * begun / total)]
        if not parts[name]:
            raise CountMismatch(f"{len(ordered)} documents give the part {name!r} none: bring more, or a larger share")
    return parts


@dataclass(frozen=True)
class Alphabet:
    """Characters as numbers: the i-th is i + 1, and every other one is 0."""

    characters: str

    @classmethod
    def of(cls, documents: Iterable[Document], symbols: int) -> Alphabet:
        """The `symbols` - 1 most frequent characters; those of one frequency in the order of their code points."""
        counted: Counter[str] = Counter()
        for document in documents:
            counted.update(document.text)
        ranked = sorted(counted, key=lambda character: (-counted[character], character))
        return cls("".join(ranked[: symbols - 1]))

    @property
    def symbols(self) -> int:
        """How many numbers there are."""
        return len(self.characters) + 1

    def encode(self, text: str) -> NDArray[np.int64]:
        """The text as numbers, (characters,)."""
        codes = np.frombuffer(text.encode("utf-32-le"), np.uint32)
        known = np.array([ord(character) for character in self.characters], np.uint32)
        numbers = np.zeros(max(int(known.max(initial=0)), int(codes.max(initial=0))) + 1, np.int64)
        numbers[known] = np.arange(1, len(known) + 1)
        return numbers[codes]


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        return ""
