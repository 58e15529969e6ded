import json
import os
import subprocess
import sys
import threading
import unicodedata
from concurrent.futures import Future

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer
from transformers import AutoTokenizer, BertTokenizerLegacy

from distilray.config.pretraining_data import TrainTokenizerConfig
from distilray.errors import InputError
from distilray.pretraining_data import tokenizer_training
from distilray.pretraining_data.tokenizer import read_tokenizer, tokenizer_hash
from distilray.pretraining_data.tokenizer_training import train_tokenizer
from distilray.runtime import signals
from distilray.runtime.run_folder import RunFolder
from tests.tiny.corpus import write_corpus

# Latin, Greek and Cyrillic with their marks and signs. Python lower-cases a capital sigma by its position in the word
# and drops what Unicode has not assigned; the library does neither, and uses another version of Unicode beyond these.
ASSIGNED = st.characters(max_codepoint=0x052F, exclude_categories=("Cn", "Cs", "Co"), exclude_characters="\u03a3")
SPECIAL = {"[PAD]": 0, "[UNK]": 100, "[CLS]": 101, "[SEP]": 102, "[MASK]": 103}
FILES = ("tokenizer.json", "tokenizer_config.json", "vocab.txt")
TEXTS = [
    "Crème brûlée, naïve façade, Ångström und Straße: ÉCOLE!",
    "東京 is the capital of Japan, 日本国; 서울 and Київ too.",
    "tab\tand\x00nul and \ufffd and \x07bell, soft\u00adhyphen, zero\u200bwidth, e\u0301 combining",
    "a" * 99 + " " + "b" * 100 + " " + "c" * 101 + " end",
    "emoji 😀 👩‍👩‍👧 flags 🇫🇷 and hearts ❤️.",
    "don't stop-me now; e.g. 3.14% of $5,000 @home #tag [brackets] under_score",
    "ﬁne ligatures, ½ fractions, Ⅷ numerals, ① circles, Ǆ titlecase, İstanbul, Αθήνα",
    "مرحبا بالعالم हिन्दी ภาษาไทย עברית",
    "   leading and trailing   ",
    "",
]
ACCENTED = {
    "German": "Über die Brücke führt eine schöne Straße.",
    "Hindi": "यह बंदरगाह समुद्र के किनारे है।",
    "Japanese": "これはガラスの港です。",
    "Russian": "Твой ёж и мой йод.",
}


def documents_of(count=120, seed=4):
    """Documents of words made of syllables, so that there are pieces to learn, and of the texts above."""
    rng = np.random.default_rng(seed)
    syllables = ["ka", "to", "ri", "men", "sol", "ing", "er", "un", "Bel", "tra", "é", "nö", "qui", "xen"]
    words = ["".join(rng.choice(syllables, size=rng.integers(1, 4))) for _ in range(400)]
    documents = [[" ".join(rng.choice(words, size=9)) + "." for _ in range(6)] for _ in range(count)]
    return [[*document, TEXTS[row % len(TEXTS)]] for row, document in enumerate(documents)]


def train(folder, corpus_dir, **values):
    """Train a tokenizer into a folder, and return the outcome."""
    values = {"run_dir": str(folder), "corpus_dir": corpus_dir, "vocabulary_size": 600, **values}
    config = TrainTokenizerConfig.model_validate(values)
    run = RunFolder("train_tokenizer", config, {})
    run.begin()
    return train_tokenizer(config, run)


@pytest.fixture
def train_on(tmp_path):
    """Train a tokenizer on some documents, and return its folder and the outcome."""

    def run(documents, **values):
        corpus_dir = write_corpus(tmp_path / "corpus", sentences=documents)
        return tmp_path / "run", train(tmp_path / "run", corpus_dir, **values)

    return run


def tokens_of(folder):
    return [token for token in (folder / "vocab.txt").read_text().split() if not token.startswith("[")]


@pytest.fixture(scope="module")
def corpus_dir(tmp_path_factory):
    return write_corpus(tmp_path_factory.mktemp("vocabulary") / "corpus", sentences=documents_of())


@pytest.fixture(scope="module")
def trained(tmp_path_factory, corpus_dir):
    """Folder and outcome of a run."""
    folder = tmp_path_factory.mktemp("vocabulary") / "run"
    return folder, train(folder, corpus_dir)


@pytest.fixture(scope="module")
def folder(trained):
    return trained[0]


@pytest.fixture(scope="module")
def tokenizer(folder):
    return Tokenizer.from_str(read_tokenizer(str(folder)))


@pytest.fixture(scope="module")
def plain(folder):
    """BERT's original tokenizer in pure Python, with the trained vocabulary."""
    return BertTokenizerLegacy(str(folder / "vocab.txt"), do_lower_case=True)


def test_the_vocabulary_has_the_configured_size_and_the_first_ids_of_bert(tokenizer, folder):
    assert {token: tokenizer.token_to_id(token) for token in SPECIAL} == SPECIAL
    assert [tokenizer.id_to_token(number) for number in (1, 99)] == ["[unused0]", "[unused98]"]
    assert {token.content for token in tokenizer.get_added_tokens_decoder().values()} == set(SPECIAL)
    lines = (folder / "vocab.txt").read_text().splitlines()
    assert tokenizer.get_vocab() == {token: number for number, token in enumerate(lines)}
    assert len(lines) == 600
    assert any(token.startswith("##") and len(token) > 4 for token in lines)


@pytest.mark.parametrize("text", TEXTS)
def test_texts_have_the_ids_of_berts_tokenizer(tokenizer, plain, text):
    assert tokenizer.encode(text).ids == plain(text)["input_ids"]


@settings(max_examples=60)
@given(st.text(ASSIGNED, max_size=60))
def test_any_text_has_the_ids_of_berts_tokenizer(tokenizer, plain, text):
    assert tokenizer.encode(text, add_special_tokens=False).ids == plain.encode(text, add_special_tokens=False)


@pytest.mark.parametrize("pair", [None, "second part"])
def test_auto_tokenizer_gives_the_same_ids_and_types(tokenizer, folder, pair):
    loaded = AutoTokenizer.from_pretrained(str(folder))
    a, b = (len(tokenizer.encode(text or "", add_special_tokens=False)) for text in ("Kator menring unsolto", pair))
    encoded, expected = loaded("Kator menring unsolto", pair), tokenizer.encode("Kator menring unsolto", pair)
    assert encoded["input_ids"] == expected.ids
    assert [expected.ids[0], expected.ids[a + 1], expected.ids[-1]] == [101, 102, 102]
    assert encoded["token_type_ids"] == expected.type_ids == [0] * (a + 2) + ([1] * (b + 1) if pair else [])
    assert (loaded.model_max_length, loaded.mask_token_id, loaded.pad_token_id) == (512, 103, 0)
    assert loaded.decode(encoded["input_ids"], skip_special_tokens=True).startswith("kator menring unsolto")


@pytest.mark.parametrize("strip_accents", [True, False])
@pytest.mark.parametrize("lower_case", [True, False])
def test_case_and_accents_are_normalized_as_configured(train_on, lower_case, strip_accents):
    folder, outcome = train_on([list(ACCENTED.values())] * 20, lower_case=lower_case, strip_accents=strip_accents)
    assert "strip_accents" not in outcome.summary
    trained, loaded = Tokenizer.from_str(read_tokenizer(str(folder))), AutoTokenizer.from_pretrained(str(folder))
    for text in ACCENTED.values():
        ids = trained.encode(text).ids
        assert loaded(text)["input_ids"] == ids
        assert SPECIAL["[UNK]"] not in ids
        expected = text.lower() if lower_case else text
        if strip_accents:
            expected = "".join(c for c in unicodedata.normalize("NFD", expected) if unicodedata.category(c) != "Mn")
        assert "".join(loaded.decode(ids, skip_special_tokens=True).split()) == "".join(expected.split())
    assert json.loads((folder / "tokenizer_config.json").read_text())["do_lower_case"] == lower_case


def test_the_summary_reports_accents_that_are_removed_by_default(train_on):
    _, outcome = train_on([[ACCENTED["German"], ACCENTED["Hindi"]]] * 20)
    assert "strip_accents: false keeps them" in outcome.summary


def test_the_teachers_tokenizer_is_copied_unchanged(tmp_path, train_on):
    teacher_dir, _ = train_on([[ACCENTED["German"]]] * 20, strip_accents=False)
    outcome = train(tmp_path / "copy", None, teacher_dir=str(teacher_dir))
    tokenizer_json = read_tokenizer(str(teacher_dir))
    assert read_tokenizer(str(tmp_path / "copy")) == tokenizer_json
    assert outcome.counts["tokenizer_hash"] == tokenizer_hash(tokenizer_json)
    loaded = AutoTokenizer.from_pretrained(str(tmp_path / "copy"))
    ids = loaded(ACCENTED["German"])["input_ids"]
    assert ids == Tokenizer.from_str(tokenizer_json).encode(ACCENTED["German"]).ids
    assert "ü" in loaded.decode(ids)


TRAIN = """
import sys
from distilray.config.pretraining_data import TrainTokenizerConfig
from distilray.pretraining_data.tokenizer_training import train_tokenizer
from distilray.runtime.run_folder import RunFolder
config = TrainTokenizerConfig(run_dir=sys.argv[1], corpus_dir=sys.argv[2], vocabulary_size=600)
run = RunFolder("train_tokenizer", config, {})
run.begin()
train_tokenizer(config, run)
"""


def test_neither_process_nor_files_of_the_corpus_change_the_bytes(folder, tmp_path, root):
    corpus_dir = write_corpus(tmp_path / "corpus", files=7, sentences=documents_of())
    environment = {**os.environ, "PYTHONPATH": str(root / "platform"), "TOKENIZERS_PARALLELISM": "false"}
    command = [sys.executable, "-c", TRAIN, str(tmp_path / "run"), corpus_dir]
    subprocess.run(command, env=environment, check=True, timeout=120)
    for name in FILES:
        assert (tmp_path / "run" / name).read_bytes() == (folder / name).read_bytes()


def test_the_outcome_has_counts_and_hash_of_the_tokenizer(trained):
    folder, outcome = trained
    assert outcome.counts["tokenizer_hash"] == tokenizer_hash(read_tokenizer(str(folder)))
    assert (outcome.counts["documents"], outcome.counts["sentences"]) == (120, 7 * 120)
    assert sorted(outcome.outputs) == sorted(FILES)


def test_a_sample_reads_its_share_of_the_documents(tmp_path, corpus_dir):
    outcome = train(tmp_path / "run", corpus_dir, sample_fraction=0.3)
    assert 15 <= outcome.counts["documents"] <= 60
    assert outcome.counts["sentences"] == 7 * outcome.counts["documents"]


def test_the_most_frequent_characters_become_tokens(train_on):
    folder, _ = train_on([["aaaa bbbb cccc dd e"] * 4] * 8, max_characters=3, vocabulary_size=200)
    assert {character for token in tokens_of(folder) for character in token.removeprefix("##")} == set("abc")


@pytest.mark.parametrize(("times", "words"), [(2, {"aba", "cdc", "efe"}), (3, {"aba", "cdc"}), (4, {"aba"})])
def test_a_word_needs_the_minimum_frequency(train_on, times, words):
    documents = [["aba aba aba cdc cdc"], ["efe efe aba"], ["cdc aba"]]
    folder, _ = train_on(documents, min_frequency=times, vocabulary_size=300, max_seq_length=64)
    assert {"aba", "cdc", "efe"} & set(tokens_of(folder)) == words
    assert json.loads((folder / "tokenizer_config.json").read_text())["model_max_length"] == 64


@pytest.mark.parametrize(
    ("word", "is_learned"),
    [
        pytest.param("xzy" * 34, False, id="letters"),
        pytest.param("xzy" * 20 + "\x1d" + "xzy" * 20, False, id="joined by a control character"),
        pytest.param("\ud55c\uae00" * 20, False, id="longer when decomposed"),
        pytest.param("xzy" * 33, True, id="just short enough"),
        pytest.param("-".join(["xzy"] * 40), True, id="hyphens"),
        pytest.param("xzy\u3000" * 40, True, id="wide spaces"),
    ],
)
def test_nothing_is_learned_from_words_that_encoding_maps_to_unk(train_on, word, is_learned):
    folder, _ = train_on([[f"mi {word} mo"] * 5] * 4, vocabulary_size=400)
    learned = {token.removeprefix("##") for token in tokens_of(folder)}
    if is_learned:
        assert "xzy" in learned
    else:
        assert {character for token in learned for character in token} == set("mio")


def test_the_summary_reports_a_smaller_vocabulary(train_on):
    _, outcome = train_on([["one two three"], ["two three one"]], vocabulary_size=5000)
    assert outcome.counts["vocabulary_size"] < 200
    assert "the text yields no more (vocabulary_size: 5,000)" in outcome.summary


def test_a_corpus_without_text_is_refused_and_leaves_no_tokenizer(train_on, tmp_path):
    with pytest.raises(InputError, match="contain no text"):
        train_on([[""], [" "]])
    assert [file.name for file in (tmp_path / "run").iterdir()] == ["config.yaml"]


def test_an_interrupted_training_stops_reading(tmp_path, corpus_dir, monkeypatch):
    is_reading, is_interrupted, batches = threading.Event(), threading.Event(), []
    original = tokenizer_training._SampleReader.batches

    def read(reader, label):
        for batch in original(reader, label):
            yield batch
            if "words" in label:
                batches.append(batch)
                is_reading.set()
                assert is_interrupted.wait(10)

    class Interrupted(Future):
        def result(self, timeout=None):
            assert is_reading.wait(10)
            raise KeyboardInterrupt

    monkeypatch.setattr(tokenizer_training._SampleReader, "batches", read)
    monkeypatch.setattr(signals, "Future", Interrupted)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "run", corpus_dir)
    is_interrupted.set()
    for thread in threading.enumerate():
        if thread.name == "train_tokenizer":
            thread.join(10)
    assert len(batches) <= 2


TRAIN_TWICE = """
import sys
from distilray.config.pretraining_data import TrainTokenizerConfig
from distilray.pretraining_data.tokenizer_training import train_tokenizer
from distilray.runtime.run_folder import RunFolder
for name in ("small", "large"):
    corpus_dir = f"{sys.argv[1]}/{name}"
    config = TrainTokenizerConfig(run_dir=f"{corpus_dir}-run", corpus_dir=corpus_dir, vocabulary_size=600)
    run = RunFolder("train_tokenizer", config, {})
    run.begin()
    train_tokenizer(config, run)
    print(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1])
"""


@pytest.mark.slow
def test_the_corpus_is_never_in_memory(tmp_path, root):
    # Python stores each character of a sentence with an emoji in four bytes, so that the corpus would take 120 MB.
    documents = [[f"{sentence} \U0001f600" for sentence in document] for document in documents_of(3000)]
    write_corpus(tmp_path / "small", sentences=documents * 5, row_group_size=1000)
    write_corpus(tmp_path / "large", files=9, sentences=documents * 30, row_group_size=1000)
    size = 30 * sum(len(sentence.encode()) for document in documents for sentence in document)
    environment = {**os.environ, "PYTHONPATH": str(root / "platform")}
    command = [sys.executable, "-c", TRAIN_TWICE, str(tmp_path)]
    output = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=240).stdout
    first, second = map(int, output.split())
    assert size > 30e6
    assert 1024 * (second - first) < size / 2
