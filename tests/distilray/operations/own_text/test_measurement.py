"""Measurements of samples: filters, single sentences, copies."""

import pytest

from distilray.corpus.survey import survey_text
from distilray.errors import InputError
from distilray.operations.own_text.measurement import measure_text
from distilray.pretraining_data.tokenizer import build_tokenizer, read_tokenizer, vocabulary_of
from tests.distilray.corpus.test_survey import DOCUMENTS, SENTENCES

TEXTS = {
    "documents": DOCUMENTS,
    "reviews": [f"{sentence[:-1]} ({number})." for number, sentence in enumerate(SENTENCES * 10)],
    "tweets": [f"so much rain at the station today {number} #train" for number in range(40)],
    "log": [f"12:07:{number},123 [w-{number}] 0x{number}ff connection to station refused" for number in range(40)],
}


@pytest.fixture
def measure(tmp_path, bert_dir):
    def run(lines):
        (tmp_path / "a.txt").write_text("\n".join(lines))
        tokenizer_json = read_tokenizer(bert_dir)
        unknown = vocabulary_of(tokenizer_json).unk
        return measure_text(survey_text(f"{tmp_path}/a.txt"), build_tokenizer(tokenizer_json), "en", unknown_id=unknown)

    return run


@pytest.mark.parametrize("name", TEXTS)
def test_the_filters_keep_most_documents(measure, name):
    measured = measure(TEXTS[name])
    assert sum(measured.dropped.values()) < 0.2
    assert measured.documents == pytest.approx(len(TEXTS[name]), rel=0.1)
    assert measured.has_single_sentences == (name != "documents")


def test_copies_of_a_document_count_once(measure):
    assert measure(DOCUMENTS[:1] * 100).documents == 1


def test_text_that_no_filter_keeps_is_refused(measure):
    with pytest.raises(InputError, match=r"none of 50 sampled documents is usable text .*too_short"):
        measure([f"{number} a" for number in range(50)])
