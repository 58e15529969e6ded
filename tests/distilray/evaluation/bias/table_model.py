"""A tokenizer, and a model that predicts a mask from a table by the token to its left."""

from types import SimpleNamespace

import numpy as np

from distilray.evaluation.bias.models import ModelTokenizer

TOKENS = [
    *("[PAD]", "[MASK]", "[CLS]", "[SEP]", "other"),
    *("black", "white", "men", "women", "are", "poor", "rich", "very", "he", "is", "a", "."),
    *("nurse", "doctor", "tree", "work", "##man"),
]
PIECES = {"workman": ["work", "##man"]}
_SHIFT = 3.0  # logits are not log probabilities: code that does not normalize is off by this


def token_ids(*tokens: str) -> tuple[int, ...]:
    return tuple(TOKENS.index(token) for token in tokens)


def encode(text: str) -> list[int]:
    words = [piece for word in text.replace(".", " .").split() for piece in PIECES.get(word, [word])]
    return list(token_ids("[CLS]", *(word for word in words if word in TOKENS), "[SEP]"))


TOKENIZER = ModelTokenizer(
    name="table",
    encode=encode,
    id_to_token=lambda number: TOKENS[number],
    token_to_id=lambda token: TOKENS.index(token) if token in TOKENS else None,
    mask_id=1,
    pad_id=0,
    max_length=12,
)


class TableModel:
    """Probabilities by (left token, token); the rest belongs to `other`; uniform after unlisted tokens."""

    config = SimpleNamespace(model_type="table")

    def __init__(self, table: dict[tuple[str, str], float]) -> None:
        self.table = np.full((len(TOKENS), len(TOKENS)), 1 / len(TOKENS))
        for left in {left for left, _ in table}:
            row = {token: share for (other, token), share in table.items() if other == left}
            self.table[TOKENS.index(left)] = 1e-12
            self.table[TOKENS.index(left), TOKENS.index("other")] = 1 - sum(row.values())
            for token, share in row.items():
                self.table[TOKENS.index(left), TOKENS.index(token)] = share
        self.predicted = 0

    def logits_at(self, input_ids, attention_mask, mask_index, token_type_ids=None):
        assert input_ids.shape == attention_mask.shape
        flat = input_ids.ravel()
        assert (flat[mask_index] == TOKENIZER.mask_id).all()
        assert attention_mask.ravel()[mask_index].all()
        assert ((input_ids == TOKENIZER.pad_id) == (attention_mask == 0)).all()
        self.predicted += len(mask_index)
        return (np.log(self.table[flat[mask_index - 1]]) + _SHIFT).astype(np.float32)
