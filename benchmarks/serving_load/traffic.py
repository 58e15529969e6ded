"""Model and requests for the load tests: DistilBERT's size with random weights, and masked sentences of the sample."""

import json
import random
import re
from pathlib import Path
from xml.etree import ElementTree

import torch
from transformers import DistilBertConfig, DistilBertForMaskedLM

from benchmarks.wikitext_cleaning import article_xml
from distilray.config.sample import resolve_sample, wikipedia_dump
from distilray.corpus.sentences import split_sentences
from distilray.corpus.wikitext.cleaning import clean_wikitext
from distilray.models.masked_lm import save_model
from distilray.pretraining_data.tokenizer import read_tokenizer

MASK = "[MASK]"
TOP_K = 5
_MIN_WORDS, _MAX_WORDS = 6, 24
_ARTICLES = 20
# Matches sentences without brackets and other symbols, which may be remains of tables.
_PLAIN = re.compile(r"[A-Z][\w',; -]+[.]")


def make_model(folder: Path) -> str:
    """Write DistilBERT base with random weights and the tokenizer of the sample, unless the folder contains a model."""
    if not (folder / "tokenizer.json").is_file():
        folder.mkdir(parents=True, exist_ok=True)
        torch.manual_seed(0)
        save_model(DistilBertForMaskedLM(DistilBertConfig()), folder, read_tokenizer(resolve_sample("sample:encoder")))
    return str(folder)


def masked_sentences(count: int, *, seed: int) -> list[str]:
    """Return sentences of 6 to 24 words from articles of the sample, with one word masked."""
    _, pages = article_xml(wikipedia_dump())
    rng = random.Random(seed)
    sentences: list[str] = []
    for page in rng.sample(pages, min(_ARTICLES, len(pages))):
        wikitext = ElementTree.fromstring(page).findtext("revision/text") or ""
        sentences += [sentence for sentence in split_sentences(clean_wikitext(wikitext)) if _PLAIN.fullmatch(sentence)]
    fitting = [sentence for sentence in sentences if _MIN_WORDS <= len(sentence.split()) <= _MAX_WORDS]
    return [_masked(sentence, rng) for sentence in rng.sample(sorted(set(fitting)), count)]


def body(text: str) -> str:
    """Return the request body for a text."""
    return json.dumps({"inputs": text, "parameters": {"top_k": TOP_K}})


def _masked(sentence: str, rng: random.Random) -> str:
    words = sentence.split()
    position = rng.randrange(len(words) - 1)  # not the last one, which includes the period
    return " ".join([*words[:position], MASK, *words[position + 1 :]])
