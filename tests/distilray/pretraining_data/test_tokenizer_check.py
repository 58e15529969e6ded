import pytest
from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers

from distilray.errors import InputError
from distilray.pretraining_data.encoding import plan_encoding
from tests.tiny.corpus import sentences_of, write_corpus
from tests.tiny.models import SPECIALS, VOCABULARY
from tests.tiny.shards import encode_config

SENTENCES = sentences_of(30)


@pytest.fixture(scope="module")
def corpus_dir(tmp_path_factory):
    return write_corpus(tmp_path_factory.mktemp("check") / "corpus", sentences=SENTENCES)


def train(tokenizer, trainer, *, pre_tokenizer=None, normalizer=None):
    tokenizer = Tokenizer(tokenizer)
    if pre_tokenizer is not None:
        tokenizer.pre_tokenizer = pre_tokenizer
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    tokenizer.train_from_iterator((text for document in SENTENCES for text in document), trainer)
    return tokenizer


def bpe(**options):
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=SPECIALS, show_progress=False)
    return train(models.BPE(unk_token="[UNK]"), trainer, **options)


def unigram(pre_tokenizer):
    trainer = trainers.UnigramTrainer(vocab_size=150, special_tokens=SPECIALS, unk_token="[UNK]", show_progress=False)
    return train(models.Unigram(), trainer, pre_tokenizer=pre_tokenizer)


def word_piece(*added, lowercase=True, replaced=None):
    vocabulary = {token: number for number, token in enumerate(dict.fromkeys(VOCABULARY))}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    bert = normalizers.BertNormalizer(lowercase=lowercase)
    tokenizer.normalizer = bert if replaced is None else normalizers.Sequence([bert, normalizers.Replace(*replaced)])
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.add_special_tokens(SPECIALS)
    tokenizer.add_tokens(list(added))
    return tokenizer


def with_word_ends():
    """BPE that marks the end of a word instead of its continuation, as the first GPT did."""
    options = {"vocab_size": 100, "special_tokens": SPECIALS, "show_progress": False}
    trainer = trainers.BpeTrainer(**options, end_of_word_suffix="</w>")
    model = models.BPE(unk_token="[UNK]", end_of_word_suffix="</w>")
    return train(model, trainer, pre_tokenizer=pre_tokenizers.BertPreTokenizer())


SPACES = normalizers.Sequence([normalizers.Prepend("_"), normalizers.Replace(" ", "_")])
REFUSED = {
    "byte-level": lambda: bpe(pre_tokenizer=pre_tokenizers.ByteLevel(add_prefix_space=False)),
    "byte-level with a first space": lambda: bpe(pre_tokenizer=pre_tokenizers.ByteLevel(add_prefix_space=True)),
    "byte-level without a pattern": lambda: bpe(pre_tokenizer=pre_tokenizers.ByteLevel(False, use_regex=False)),
    "unigram": lambda: unigram(pre_tokenizers.Metaspace()),
    "unigram with one first space": lambda: unigram(pre_tokenizers.Metaspace(prepend_scheme="first")),
    "metaspace without a split": lambda: bpe(pre_tokenizer=pre_tokenizers.Metaspace(split=False)),
    "spaces as a normalizer": lambda: bpe(normalizer=SPACES),
    "words joined by a normalizer": lambda: word_piece(replaced=(Regex(r"(?<=a|s) (?=\w)"), "")),
    "a token of two words": lambda: word_piece("capital of"),
    "a token of two words that the corpus lacks": lambda: word_piece(AddedToken("new delhi", single_word=True)),
}
ACCEPTED = {
    "uncased WordPiece": word_piece,
    "cased WordPiece": lambda: word_piece(lowercase=False),
    "added words": lambda: word_piece("unsolto", AddedToken("menring", lstrip=True, rstrip=True)),
    "ends of words": with_word_ends,
}


@pytest.fixture
def plan(tmp_path, corpus_dir):
    def run(tokenizer, **changes):
        tokenizer.save(str(tmp_path / "tokenizer.json"))
        return plan_encoding(encode_config(corpus_dir=corpus_dir, tokenizer_dir=str(tmp_path), **changes))

    return run


@pytest.mark.parametrize("name", REFUSED)
def test_a_tokenizer_that_does_not_work_word_by_word_is_refused(plan, tmp_path, name):
    with pytest.raises(InputError, match=f"^{tmp_path}: .*word by word.* WordPiece"):
        plan(REFUSED[name]())


@pytest.mark.parametrize("name", ACCEPTED)
def test_a_tokenizer_that_works_word_by_word_is_accepted(plan, name):
    assert plan(ACCEPTED[name]())


def test_the_sample_tokenizer_is_accepted_for_any_text(tmp_path):
    texts = ["[MASK] of [SEP]", "\u6771\u4eac caf\u00e9", "a\tb", "", "  two  spaces ", "##s ##"]
    corpus_dir = write_corpus(tmp_path / "corpus", sentences=[[text, "rome is old"] for text in texts] * 20)
    config = encode_config(corpus_dir=corpus_dir, tokenizer_dir="sample:encoder", masking={"whole_words": True})
    assert plan_encoding(config)


def test_whole_words_need_marked_continuation_pieces(plan):
    with pytest.raises(InputError, match=r"masking\.whole_words"):
        plan(with_word_ends(), masking={"whole_words": True})
