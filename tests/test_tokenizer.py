"""turn/backbones/tokenizer.py: BERT's rules, and what a vocabulary file may be."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from common.io import InputError
from turn.backbones.tokenizer import SPECIAL, WordPiece, words

VOCABULARY = [
    "[PAD]",
    "[unused0]",
    "[UNK]",
    "[CLS]",
    "[SEP]",
    "[MASK]",
    "dog",
    "play",
    "##ing",
    "##s",
    "un",
    "##aff",
    "##able",
    "the",
    "cafe",
    ",",
    "!",
    "狗",
    "$",
    "-",
    "[",
    "]",
    "mask",
    "a",
]


def pieces(tokenizer, text, length=30):
    return [
        tokenizer.tokens[i]
        for i in tokenizer.encode([text], length)[0].tolist()
        if i != tokenizer.pad
    ]


@pytest.mark.parametrize(
    "text, expected",
    [
        ("The DOGS playing", ["the", "dog", "##s", "play", "##ing"]),
        ("unaffable", ["un", "##aff", "##able"]),
        ("unaffably", ["[UNK]"]),
        ("dog,dog!", ["dog", ",", "dog", "!"]),
        ("CAFÉ cafe\u0301", ["cafe", "cafe"]),
        ("dog狗dog", ["dog", "狗", "dog"]),
        ("$-dog", ["$", "-", "dog"]),
        ("dog\u00a0dog\tdog\n", ["dog"] * 3),
        ("d\u200bo\0g\ufffd", ["dog"]),
        ("[MASK]", ["[", "mask", "]"]),
        ("a" * 100 + " dog", ["[UNK]", "dog"]),
        ("", []),
    ],
)
def test_berts_rules(text, expected):
    assert pieces(WordPiece(VOCABULARY), text) == ["[CLS]", *expected, "[SEP]"]


def test_a_word_over_100_characters_is_unknown_although_its_pieces_are_known():
    tokenizer = WordPiece([*SPECIAL, "a", "##a"])
    assert len(pieces(tokenizer, "a" * 100, 200)) == 102
    assert pieces(tokenizer, "a" * 101, 200) == ["[CLS]", "[UNK]", "[SEP]"]


def test_unknown_words_are_named():
    tokenizer = WordPiece(VOCABULARY)
    assert tokenizer.unknown("The zebra, playing unaffable dogs; cafes") == ["zebra", ";"]
    assert tokenizer.unknown("") == []


def test_padding_and_truncation():
    tokenizer = WordPiece(VOCABULARY)
    ids = tokenizer.encode(["dog", "the dog the dog the dog"], 5)
    assert ids.dtype == torch.long
    d, t = tokenizer.ids["dog"], tokenizer.ids["the"]
    assert ids.tolist() == [[3, d, 4, 0, 0], [3, t, d, t, 4]]
    assert tokenizer.encode([], 5).shape == (0, 5)
    assert tokenizer.encode(["dog"]).shape == (1, 30)


def test_decode():
    tokenizer = WordPiece(VOCABULARY)
    assert (
        tokenizer.decode(tokenizer.encode(["The dogs, playing zzz!"])[0])
        == "the dogs , playing [UNK] !"
    )


def test_file_round_trip(tmp_path):
    odd = [*VOCABULARY, "\u2028", "##\x85"]  # splitlines() would cut these
    (tmp_path / "vocab.txt").write_bytes(("\n".join(odd) + "\n").encode())
    tokenizer = WordPiece.from_file(tmp_path / "vocab.txt")
    assert tokenizer.tokens == odd and len(tokenizer) == len(odd)
    assert (tokenizer.pad, tokenizer.unk, tokenizer.cls, tokenizer.sep, tokenizer.mask) == (
        0,
        2,
        3,
        4,
        5,
    )
    (tmp_path / "windows.txt").write_bytes("\r\n".join(VOCABULARY).encode())
    assert WordPiece.from_file(tmp_path / "windows.txt").tokens == VOCABULARY
    assert WordPiece(tokenizer.tokens).ids == tokenizer.ids


@pytest.mark.parametrize(
    "content, reason",
    [
        (b"[PAD]\n[UNK]\n[CLS]\n[SEP]\n", r"\[MASK\]"),
        (b"", r"\[PAD\]"),
        ("\n".join([*VOCABULARY, "dog"]).encode(), "'dog' occurs twice"),
        (b"\xff\xfe\x00", "utf-8"),
        (b"x" * ((1 << 24) + 1), "too large"),
    ],
)
def test_bad_files(tmp_path, content, reason):
    path = tmp_path / "vocab.txt"
    path.write_bytes(content)
    with pytest.raises(InputError, match=reason) as error:
        WordPiece.from_file(path)
    assert str(error.value).startswith(str(path)) and "\n" not in str(error.value)


def test_missing_file(tmp_path):
    with pytest.raises(InputError, match="No such file"):
        WordPiece.from_file(tmp_path / "no.txt")


def test_from_texts_does_not_depend_on_order():
    texts = ["A red dog!", "the left Café", "a [MASK]"]
    tokenizer = WordPiece.from_texts(texts)
    assert tokenizer.tokens == WordPiece.from_texts(texts[::-1]).tokens
    assert tokenizer.tokens == [
        *SPECIAL,
        "!",
        "[",
        "]",
        "a",
        "cafe",
        "dog",
        "left",
        "mask",
        "red",
        "the",
    ]
    assert tokenizer.unk not in tokenizer.encode(texts)


@settings(max_examples=80, deadline=None)
@given(st.text(max_size=60))
def test_any_text_can_be_encoded_and_words_are_final(text):
    tokenizer = WordPiece.from_texts([text])
    row = tokenizer.encode([text], 100)[0].tolist()
    assert (
        row[0] == tokenizer.cls and row.count(tokenizer.sep) == 1 and row.count(tokenizer.mask) == 0
    )
    assert [tokenizer.tokens[i] for i in row[1 : row.index(tokenizer.sep)]] == list(words(text))[
        :98
    ]
    assert list(words(" ".join(words(text)))) == list(words(text))
