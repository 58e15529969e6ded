"""Masked texts of the tiny vocabulary, a model with a table of logits, a tiny GPT-2, and scoring without Ray."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer as WordTokenizer
from tokenizers import models, pre_tokenizers
from torch import Tensor, nn
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from distilray.evaluation.fill_mask import pipeline
from distilray.evaluation.fill_mask.chunk_scorer import ChunkScorer
from tests.tiny.words import WORDS

MULTI_PIECE = ("cats", "dogs", "walked", "sunly")  # words that the tiny vocabulary has in two pieces and more


def rows_of(count: int, *, seed: int = 2, most_masks: int = 3, words: int = 20) -> list[dict[str, Any]]:
    """Return rows in the layout of rcds with up to `most_masks` masks and answers of one or more word pieces."""
    rng = np.random.default_rng(seed)
    rows = []
    for number in range(count):
        text = list(rng.choice(WORDS, size=rng.integers(3, words)))
        masks = sorted(rng.choice(len(text), size=min(len(text), rng.integers(1, most_masks + 1)), replace=False))
        answers = [str(rng.choice([text[place], *MULTI_PIECE, "paris rome"])) for place in masks]
        for place in masks:
            text[place] = "<mask>"
        rows.append({"id": number, "texts": " ".join(text), "masks": answers})
    return rows


def write_rows(file: Path, rows: list[dict[str, Any]]) -> str:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(file)


def write_tiny_gpt2(folder: Path) -> str:
    """A GPT-2 of a few kilobytes whose tokens are words."""
    vocabulary = {word: number for number, word in enumerate(["<s>", "<unk>", *WORDS])}
    tokenizer = WordTokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", unk_token="<unk>").save_pretrained(folder)
    torch.manual_seed(4)
    settings = GPT2Config(
        vocab_size=len(vocabulary),
        n_embd=16,
        n_layer=1,
        n_head=2,
        n_positions=24,
        bos_token_id=0,
        initializer_range=0.5,
    )
    GPT2LMHeadModel(settings).save_pretrained(folder)
    return str(folder)


class TableModel(nn.Module):
    """A masked language model whose logits at a position are the table row of the token before it."""

    def __init__(self, logits: Tensor, max_length: int = 48) -> None:
        super().__init__()
        size = logits.shape[0]
        self.config = SimpleNamespace(model_type="bert", max_position_embeddings=max_length)
        decoder = nn.Linear(size, size, bias=False)
        decoder.weight = nn.Parameter(logits.T.contiguous())
        self.cls = nn.Module()
        self.cls.predictions = nn.Module()
        self.cls.predictions.transform = nn.ModuleDict(
            {name: nn.Identity() for name in ("dense", "transform_act_fn", "LayerNorm")}
        )
        self.cls.predictions.decoder = decoder
        self.seen: list[list[int]] = []

    def base_model(self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None) -> SimpleNamespace:
        for ids, real in zip(input_ids, attention_mask, strict=True):
            self.seen.append(ids[real.bool()].tolist())
        before = torch.roll(input_ids, 1, dims=1)
        hidden = nn.functional.one_hot(before, self.cls.predictions.decoder.in_features).float()
        return SimpleNamespace(last_hidden_state=hidden)


def score_in_process(
    monkeypatch: Any, *, order: int = 1, limit: int | None = None, seen: list[int] | None = None
) -> None:
    """Make the pipeline score its chunks in this process, in either order, and interrupt it after `limit` chunks."""

    def run(files: Any, read: Any, config: Any, folder: str) -> None:
        scorer = ChunkScorer(config, folder, "cpu")
        chunks = [
            chunk for file in files for chunk in read.func(pipeline.pa.table({"item": [vars(file)]}), **read.keywords)
        ]
        for done, chunk in enumerate(chunks[::order]):
            if limit is not None and done == limit:
                raise KeyboardInterrupt
            found = scorer.score(chunk)
            if seen is not None:
                seen.append(found["number"])

    class Session:
        def __enter__(self) -> None: ...

        def __exit__(self, *error: object) -> None: ...

    monkeypatch.setattr(pipeline, "_run", run)
    monkeypatch.setattr(pipeline, "ray_session", lambda config: Session())
