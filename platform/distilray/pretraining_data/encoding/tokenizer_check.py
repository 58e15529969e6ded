"""Check that a tokenizer can be used word by word, as `WordPieces` does."""

from itertools import chain

import numpy as np
from tokenizers import Tokenizer

from distilray.config.pretraining_data import EncodeCorpusConfig
from distilray.errors import InputError
from distilray.pretraining_data.encoding.corpus_files import Corpus, read_sentences
from distilray.pretraining_data.encoding.token_documents import WordPieces
from distilray.pretraining_data.tokenizer import Vocabulary
from distilray.runtime import storage

# Ranges of documents; documents and sentences of a range at most.
_SAMPLED_RANGES, _SAMPLED_DOCUMENTS, _SAMPLED_SENTENCES = 8, 32, 250
_SPACED_SENTENCES = 50


def check_tokenizer(config: EncodeCorpusConfig, corpus: Corpus, tokenizer_json: str, vocabulary: Vocabulary) -> None:
    """Compares the ids of a sample of the corpus with the library's own.

    Raises:
        InputError: a text has other ids when it is encoded word by word, as with byte-level BPE and SentencePiece; or
            `masking.whole_words` is set, and the tokenizer does not mark the pieces inside a word with `##`.
    """
    library, sample = Tokenizer.from_str(tokenizer_json), _sample(corpus)
    library.encode_special_tokens = True
    words = WordPieces(Tokenizer.from_str(tokenizer_json))
    # What a sample may miss: tokens that contain a space, and words that more than one space separates.
    added = [token.content for token in library.get_added_tokens_decoder().values() if " " in token.content.strip()]
    spaced = [sentence.replace(" ", "  ") for sentence in sample[:_SPACED_SENTENCES]]
    for text in [*added, *spaced, *sample]:
        encoding = library.encode(text, add_special_tokens=False)
        if words.encode([text])[0].tolist() != encoding.ids:
            raise InputError(
                f"{config.tokenizer_dir}: this tokenizer encodes words with their spaces or neighbours, as byte-level "
                f"BPE and SentencePiece do ('{_shortened(text)}' has other ids word by word), and encode_corpus would "
                "write wrong ids; give a WordPiece tokenizer, such as BERT's"
            )
        if config.masking.whole_words:
            is_inside = np.diff(np.array(encoding.word_ids, float), prepend=-1.0) == 0
            if (is_inside != vocabulary.is_continuation[encoding.ids]).any():
                raise InputError(
                    f"{config.tokenizer_dir}: this tokenizer does not mark the pieces inside a word with '##', which "
                    "masking.whole_words needs; set it to false, or give a WordPiece tokenizer, such as BERT's"
                )


def _sample(corpus: Corpus) -> list[str]:
    """Sentences of documents at evenly spaced positions of the corpus."""
    sentences: list[str] = []
    positions = np.linspace(0, corpus.documents, _SAMPLED_RANGES, endpoint=False).astype(int).tolist()
    first = 0
    for name, rows in corpus.files.items():
        for start in [position - first for position in positions if first <= position < first + rows]:
            groups = read_sentences(storage.join(corpus.folder, name), start, min(start + _SAMPLED_DOCUMENTS, rows))
            sentences += list(chain.from_iterable(chain.from_iterable(groups)))[:_SAMPLED_SENTENCES]
        first += rows
    return sentences


def _shortened(text: str) -> str:
    return " ".join(text[:60].split()[:4])
