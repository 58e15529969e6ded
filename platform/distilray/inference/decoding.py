"""Token ids to text, equal to the tokenizer's own decoding and far faster for many similar texts."""

import functools
from collections.abc import Sequence
from typing import Any


class TokenDecoder:
    """Decodes single tokens, and texts that differ in one token; threads may share it.

    A WordPiece decoder turns each token into text by itself, apart from the first one, which has no space before it. So
    the text around a mask is decoded once for all candidates. Other decoders decode every text as a whole.

    Args:
        tokenizer: of transformers.
        pad_id: left out of texts, as by the pipeline.
    """

    def __init__(self, tokenizer: Any, *, pad_id: int) -> None:
        self._tokenizer, self._backend, self._pad_id = tokenizer, tokenizer.backend_tokenizer, pad_id
        self._by_token = type(self._backend.decoder).__name__ == "WordPiece"
        self._special = {token_id for token_id, token in tokenizer.added_tokens_decoder.items() if token.special}
        self.token = functools.cache(self._token)
        self._piece = functools.cache(self._decoded_piece)

    def texts(
        self, before: Sequence[int], tokens: Sequence[int], after: Sequence[int], *, skip_special: bool
    ) -> list[str]:
        """For each of the tokens the text of `before`, the token, and `after`."""
        if not self._by_token:
            ids = [[each for each in (*before, token, *after) if each != self._pad_id] for token in tokens]
            texts: list[str] = self._tokenizer.batch_decode(ids, skip_special_tokens=skip_special)
            return texts
        head, tail = self._pieces(before, skip_special), self._pieces(after, skip_special)
        start, end = _joined(head), "".join(later for _, later in tail)
        texts = []
        for token in tokens:
            piece = self._pieces([token], skip_special)
            if head:
                texts.append(start + "".join(later for _, later in piece) + end)
            else:
                texts.append(piece[0][0] + end if piece else _joined(tail))
        if self._tokenizer.clean_up_tokenization_spaces:
            return [self._tokenizer.clean_up_tokenization(text) for text in texts]
        return texts

    def _pieces(self, ids: Sequence[int], skip_special: bool) -> list[tuple[str, str]]:
        pieces = (self._piece(each) for each in ids if not (skip_special and each in self._special))
        return [piece for piece in pieces if piece is not None]

    def _token(self, token_id: int) -> str:
        text: str = self._tokenizer.decode([token_id])
        return text

    def _decoded_piece(self, token_id: int) -> tuple[str, str] | None:
        """Text of a token at the beginning, and after other tokens; None for one without text."""
        token = self._backend.id_to_token(token_id)
        if token is None or token_id == self._pad_id:
            return None
        return self._backend.decoder.decode([token]), self._backend.decoder.decode(["x", token])[1:]


def _joined(pieces: Sequence[tuple[str, str]]) -> str:
    return "".join(first if index == 0 else later for index, (first, later) in enumerate(pieces))
