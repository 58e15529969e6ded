"""Model folders of a few kilobytes with random weights and clearly distinct predictions."""

import string
from pathlib import Path

import torch
from transformers import BertConfig, BertForMaskedLM, BertTokenizerFast, DistilBertConfig, DistilBertForMaskedLM

SPECIALS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
WORDS = """
    paris rome berlin madrid is was the a part capital city of france italy spain germany and river old new big small
    in on with people live there today many good bad day night sun moon cat dog house street one two three four five
""".split()  # noqa: SIM905 - a list of fifty literals reads worse
PIECES = ["##s", "##ing", "##ed", "##er", "##ly", *(f"##{letter}" for letter in string.ascii_lowercase)]
VOCABULARY = [*SPECIALS, *string.ascii_lowercase, ".", ",", "!", "'", "-", "?", *WORDS, *PIECES]
MAX_LENGTH = 48


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
