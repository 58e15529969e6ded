"""Decoding of token ids. The results are those of the tokenizer, but many similar texts are decoded much faster."""

import functools
from collections.abc import Sequence
from typing import Any


class TokenDecoder:
    """Decodes single tokens, and texts that differ in one token. Thread-safe.

    A WordPiece decoder converts each token independently, except that the first one has no space before it. The text
    around a mask is therefore decoded only once for all candidates. With other decoders, every text is decoded in full.

    Args:
        tokenizer: transformers tokenizer.
        pad_id: id to leave out of texts, as the fill-mask pipeline of transformers does.
    """

    def __init__(self, tokenizer: Any, *, pad_id: int) -> None:
        self._tokenizer, self._backend, self._pad_id = tokenizer, tokenizer.backend_tokenizer, pad_id
        self._by_token = type(self._backend.decoder).__name__ == "WordPiece"
        self._special = {token_id for token_id, token in tokenizer.added_tokens_decoder.items() if token.special}
        self.token = functools.cache(self._decode_token)
        self._cached_piece = functools.cache(self._decode_piece)

    def texts(
        self, before: Sequence[int], tokens: Sequence[int], after: Sequence[int], *, skip_special: bool
    ) -> list[str]:
        """Return one text per token: the ids `before`, the token, and the ids `after`."""
        if not self._by_token:
            ids = [[each for each in (*before, token, *after) if each != self._pad_id] for token in tokens]
            texts: list[str] = self._tokenizer.batch_decode(ids, skip_special_tokens=skip_special)
            return texts
        head, tail = self._pieces(before, skip_special), self._pieces(after, skip_special)
        start, end = _join(head), "".join(inner for _, inner in tail)
        texts = []
        for token in tokens:
            piece = self._pieces([token], skip_special)
            if head:
                texts.append(start + "".join(inner for _, inner in piece) + end)
            else:
                texts.append(piece[0][0] + end if piece else _join(tail))
        if self._tokenizer.clean_up_tokenization_spaces:
            return [self._tokenizer.clean_up_tokenization(text) for text in texts]
        return texts

    def _pieces(self, ids: Sequence[int], skip_special: bool) -> list[tuple[str, str]]:
        pieces = (self._cached_piece(each) for each in ids if not (skip_special and each in self._special))
        return [piece for piece in pieces if piece is not None]

    def _decode_token(self, token_id: int) -> str:
        text: str = self._tokenizer.decode([token_id])
        return text

    def _decode_piece(self, token_id: int) -> tuple[str, str] | None:
        """Return the text of a token at the start of a text and after other tokens; None if it has no text."""
        token = self._backend.id_to_token(token_id)
        if token is None or token_id == self._pad_id:
            return None
        return self._backend.decoder.decode([token]), self._backend.decoder.decode(["x", token])[1:]


def _join(pieces: Sequence[tuple[str, str]]) -> str:
    return "".join(first if index == 0 else inner for index, (first, inner) in enumerate(pieces))
