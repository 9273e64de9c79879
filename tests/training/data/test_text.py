"""Documents are files, a split is a function of their names, and an alphabet is what was seen most."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from kshot_training.data.errors import CountMismatch, SourceNotFound, SourceUnknown
from kshot_training.data.text import Alphabet, Document, load_documents, split_documents

SHARES = {"static": 0.5, "updates": 0.25, "test": 0.25}


def folder(root: Path) -> Path:
    (root / "sub").mkdir()
    for name, data in {
        "b.txt": b"second document\n",
        "a": b"first document\n",
        "sub/c.rst": "third, ünïcode \u2014 here\n".encode(),
        "sub/short.txt": b"short",
        "sub/picture.png": b"a picture is no text",
        "sub/latin.txt": "keine gültige Datei, in Latin 1".encode("latin-1"),
    }.items():
        (root / name).write_bytes(data)
    return root


def test_a_folder_is_as_many_documents_as_it_has_long_files_of_text(tmp_path: Path) -> None:
    found = load_documents("text:.", root=folder(tmp_path), minimum=6)
    assert [document.name for document in found] == ["a", "b.txt", "sub/c.rst"]
    assert found[2].text == "third, ünïcode \u2014 here\n"
    assert load_documents(f"text:{tmp_path}", minimum=6) == found


def test_a_file_is_a_document_whatever_it_is_called(tmp_path: Path) -> None:
    assert load_documents("text:sub/picture.png", root=folder(tmp_path)) == [
        Document("picture.png", "a picture is no text")
    ]


@pytest.mark.parametrize(
    ("source", "minimum", "error", "told"),
    [
        ("folder:x", 1, SourceUnknown, "expected documents as text:PATH"),
        ("text", 1, SourceUnknown, "expected documents as text:PATH"),
        ("text:nowhere", 1, SourceNotFound, "where there is nothing"),
        ("text:.", 1000, SourceNotFound, "at least 1000 characters"),
    ],
)
def test_what_is_no_text_is_refused(
    source: str, minimum: int, error: type[Exception], told: str, tmp_path: Path
) -> None:
    with pytest.raises(error, match=told):
        load_documents(source, root=folder(tmp_path), minimum=minimum)


def test_a_split_looks_at_names_only() -> None:
    documents = [Document(f"document {i}", str(i)) for i in range(20)]
    parts = split_documents(documents, SHARES)
    assert {use: len(part) for use, part in parts.items()} == {"static": 10, "updates": 5, "test": 5}
    assert sorted(document for part in parts.values() for document in part) == sorted(documents)
    other = [Document(name, "other text") for name, _ in reversed(documents)]
    again = split_documents(other, {use: 2 * share for use, share in SHARES.items()})
    assert {use: [d.name for d in part] for use, part in again.items()} == {
        use: [d.name for d in part] for use, part in parts.items()
    }


def test_too_few_documents_for_a_split_are_refused() -> None:
    with pytest.raises(CountMismatch, match="give the part 'test' none"):
        split_documents([Document("a", ""), Document("b", "")], SHARES)


def test_an_alphabet_is_the_most_frequent_characters_and_one_number_for_the_rest() -> None:
    alphabet = Alphabet.of([Document("a", "banana"), Document("b", "cd")], symbols=4)
    assert alphabet.characters == "anb"  # b, c and d are as frequent: the first code point wins
    assert alphabet.symbols == 4
    np.testing.assert_array_equal(alphabet.encode("nab\u2014d\U0001f600"), [2, 1, 3, 0, 0, 0])
    assert Alphabet.of([Document("a", "ab")], symbols=97).symbols == 3
