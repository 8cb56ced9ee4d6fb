"""The text front end: WordPiece with BERT's rules for lower-case English (appendix A.2.1).

Devlin et al., "BERT", 2019, https://arxiv.org/abs/1810.04805.

>>> tokenizer = WordPiece.from_texts(["a red ring"])
>>> tokenizer.decode(tokenizer.encode(["A red bell"], length=8)[0])
'a red [UNK]'
"""
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import torch

from common.io import InputError

SPECIAL = "[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"
LONGEST_WORD = 100  # characters; a longer word is unknown
LARGEST_FILE = 1 << 24  # bytes; bert-base-uncased has 231 508
IDEOGRAPHS = ((0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xF900, 0xFAFF), (0x20000, 0x2A6DF),
              (0x2A700, 0x2CEAF), (0x2F800, 0x2FA1F))


class WordPiece:
    """Text to ids and back. `tokens` is the whole state: `WordPiece(x.tokens)` is a copy of `x`.

    The ids of the special tokens are `pad`, `unk`, `cls`, `sep`, `mask`; "[MASK]" in a text is
    plain text. Raises ValueError if a special token is missing or a token occurs twice."""

    def __init__(self, tokens: Sequence[str]):
        self.tokens = list(tokens)
        self.ids = {token: i for i, token in enumerate(self.tokens)}
        if len(self.ids) < len(self.tokens):
            twice = next(token for i, token in enumerate(self.tokens) if self.ids[token] != i)
            raise ValueError(f"token {twice!r} occurs twice")
        if missing := [token for token in SPECIAL if token not in self.ids]:
            raise ValueError(f"no {', '.join(missing)} in the vocabulary")
        self.pad, self.unk, self.cls, self.sep, self.mask = (self.ids[t] for t in SPECIAL)

    def __len__(self) -> int:
        return len(self.tokens)

    @classmethod
    def from_file(cls, path) -> "WordPiece":
        """BERT's vocab.txt: a token a line; its id is the line's number from 0. Raises InputError.
        """
        try:
            if Path(path).stat().st_size > LARGEST_FILE:
                raise InputError(path, "too large for a vocabulary")
            # not splitlines(): that also splits at characters which are tokens themselves
            tokens = Path(path).read_bytes().decode("utf-8").split("\n")
            return cls([token.rstrip("\r") for token in (tokens if tokens[-1] else tokens[:-1])])
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or f"not a vocabulary: {error}"
            raise InputError(path, reason) from None

    @classmethod
    def from_texts(cls, texts: Iterable[str]) -> "WordPiece":
        """A small vocabulary: the whole words of `texts`, in alphabetical order."""
        whole = {word for text in texts for word in words(text) if len(word) <= LONGEST_WORD}
        return cls([*SPECIAL, *sorted(whole.difference(SPECIAL))])

    def encode(self, texts: Sequence[str], length: int = 30) -> torch.Tensor:
        """(B, length) int64: [CLS], the text's pieces, cut if they are too many, [SEP], [PAD] …"""
        rows = []
        for text in texts:
            pieces = [piece for word in words(text) for piece in self._pieces(word)][:length - 2]
            row = [self.cls, *pieces, self.sep]
            rows.append(row + [self.pad] * (length - len(row)))
        return torch.tensor(rows, dtype=torch.long).reshape(-1, length)

    def decode(self, ids) -> str:
        """The text of a row of ids (a tensor or a sequence), without [CLS], [SEP] and [PAD]."""
        shown = (int(i) for i in ids if int(i) not in (self.cls, self.sep, self.pad))
        return " ".join(self.tokens[i] for i in shown).replace(" ##", "")

    def unknown(self, text: str) -> list[str]:
        """The words of a text that have no pieces: [UNK] stands for each of them."""
        return [word for word in words(text) if self._pieces(word) == [self.unk]]

    def _pieces(self, word: str) -> list[int]:
        """The longest piece that the word begins with, then that of the rest …; [UNK] if it fails.
        """
        if len(word) > LONGEST_WORD:
            return [self.unk]
        pieces, start = [], 0
        while start < len(word):
            prefix = "##" if start else ""
            end = next((end for end in range(len(word), start, -1)
                        if prefix + word[start:end] in self.ids), None)
            if end is None:
                return [self.unk]
            pieces.append(self.ids[prefix + word[start:end]])
            start = end
        return pieces


def words(text: str) -> Iterator[str]:
    """Lower-case words without accents.

    Each punctuation mark, symbol of ASCII and ideograph is a word of its own."""
    plain = "".join(_clean(c) for c in text).lower()
    plain = (c for c in unicodedata.normalize("NFD", plain) if unicodedata.category(c) != "Mn")
    return iter("".join(f" {c} " if _stands_alone(c) else c for c in plain).split())


def _clean(c: str) -> str:
    if c in "\t\n\r" or unicodedata.category(c) == "Zs":
        return " "
    return "" if c in "\0\ufffd" or unicodedata.category(c) in ("Cc", "Cf") else c


def _stands_alone(c: str) -> bool:
    if c.isascii():
        return c.isprintable() and not c.isalnum() and c != " "
    is_ideograph = any(low <= ord(c) <= high for low, high in IDEOGRAPHS)
    return is_ideograph or unicodedata.category(c).startswith("P")
