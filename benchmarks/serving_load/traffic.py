"""What is served and asked: a model of DistilBERT's size with random weights, and sentences of a real text."""

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
_FEWEST_WORDS, _MOST_WORDS = 6, 24
_ARTICLES = 20
# A sentence of words, not a table or a list of names in brackets.
_PLAIN = re.compile(r"[A-Z][\w',; -]+[.]")


def make_model(folder: Path) -> str:
    """A model folder: DistilBERT base with random weights, and the tokenizer of the sample; made once."""
    if not (folder / "tokenizer.json").is_file():
        folder.mkdir(parents=True, exist_ok=True)
        torch.manual_seed(0)
        save_model(DistilBertForMaskedLM(DistilBertConfig()), folder, read_tokenizer(resolve_sample("sample:encoder")))
    return str(folder)


def masked_sentences(count: int, *, seed: int) -> list[str]:
    """Sentences of articles of the sample, 6 to 24 words each, with the mask in the place of one word."""
    _, pages = article_xml(wikipedia_dump())
    rng = random.Random(seed)
    found: list[str] = []
    for page in rng.sample(pages, min(_ARTICLES, len(pages))):
        wikitext = ElementTree.fromstring(page).findtext("revision/text") or ""
        found += [sentence for sentence in split_sentences(clean_wikitext(wikitext)) if _PLAIN.fullmatch(sentence)]
    fitting = [sentence for sentence in found if _FEWEST_WORDS <= len(sentence.split()) <= _MOST_WORDS]
    return [_masked(sentence, rng) for sentence in rng.sample(sorted(set(fitting)), count)]


def body(text: str) -> str:
    """The request for a text."""
    return json.dumps({"inputs": text, "parameters": {"top_k": TOP_K}})


def _masked(sentence: str, rng: random.Random) -> str:
    words = sentence.split()
    place = rng.randrange(len(words) - 1)  # not the last, which the full stop ends
    return " ".join([*words[:place], MASK, *words[place + 1 :]])
