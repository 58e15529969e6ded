"""Model folders of a few kilobytes with random weights and clearly distinct predictions."""

import string
from pathlib import Path
from typing import Any

import torch
from transformers import BertConfig, BertForMaskedLM, BertTokenizerFast, DistilBertConfig, DistilBertForMaskedLM

from distilray.models.masked_lm import load_masked_lm, save_model
from distilray.models.student import create_student
from distilray.pretraining_data.tokenizer import read_tokenizer, vocabulary_of
from tests.tiny.words import WORDS

SPECIALS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
PIECES = ["##s", "##ing", "##ed", "##er", "##ly", *(f"##{letter}" for letter in string.ascii_lowercase)]
VOCABULARY = [*SPECIALS, *string.ascii_lowercase, ".", ",", "!", "'", "-", "?", *WORDS, *PIECES]
MAX_LENGTH = 48
MAX_SEQ_LENGTH = 32  # of the teacher and the shards
DEVIATION = 0.15  # of trainable weights; with the usual 0.5 the tiny models hardly learn


def write_tiny_model(folder: Path, architecture: str) -> str:
    """Write a BERT or DistilBERT with two layers and its tokenizer."""
    torch.manual_seed(7)
    if architecture == "bert":
        model = BertForMaskedLM(
            BertConfig(
                vocab_size=len(VOCABULARY),
                hidden_size=32,
                num_hidden_layers=2,
                num_attention_heads=2,
                intermediate_size=64,
                max_position_embeddings=MAX_LENGTH,
                initializer_range=0.5,
            )
        )
    else:
        model = DistilBertForMaskedLM(
            DistilBertConfig(
                vocab_size=len(VOCABULARY),
                dim=32,
                n_layers=2,
                n_heads=2,
                hidden_dim=64,
                max_position_embeddings=MAX_LENGTH,
                initializer_range=0.5,
            )
        )
    model.save_pretrained(folder)
    words = folder / "words.txt"
    words.write_text("\n".join(dict.fromkeys(VOCABULARY)) + "\n", encoding="utf-8")
    BertTokenizerFast(str(words), do_lower_case=True).save_pretrained(folder)
    words.unlink()
    return str(folder)


def write_trainable_model(folder: Path, architecture: str) -> str:
    """Write a tiny model whose initial weights are small enough for training."""
    write_tiny_model(folder, architecture)
    model = load_masked_lm(str(folder))
    for parameter in model.parameters():
        if parameter.dim() > 1:
            parameter.data *= DEVIATION / model.config.initializer_range
    model.config.initializer_range = DEVIATION
    save_model(model, folder, read_tokenizer(str(folder)))
    return str(folder)


def write_tokenizer(folder: Path) -> str:
    """Write a folder with the tokenizer of the tiny models."""
    folder.mkdir(parents=True, exist_ok=True)
    return write_tiny_model(folder, "bert")


def write_teacher(folder: Path, tokenizer_dir: str, *, layers: int = 4, dim: int = 32) -> str:
    """A BERT with random weights and the tiny tokenizer, in a folder as `train_teacher` writes it."""
    tokenizer_json = read_tokenizer(tokenizer_dir)
    torch.manual_seed(3)
    model = BertForMaskedLM(
        BertConfig(
            vocab_size=vocabulary_of(tokenizer_json).size,
            hidden_size=dim,
            num_hidden_layers=layers,
            num_attention_heads=2,
            intermediate_size=64,
            max_position_embeddings=MAX_SEQ_LENGTH,
            initializer_range=0.1,
        )
    )
    folder.mkdir(parents=True, exist_ok=True)
    save_model(model, folder, tokenizer_json)
    return str(folder)


def distant_student(teacher: Any) -> Any:
    """A student moved away from its teacher, so that no loss and no gradient is near 0."""
    model = create_student(teacher)[0]
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.05)
    return model
