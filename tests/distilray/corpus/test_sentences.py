# ruff: noqa: RUF001 - signs of many languages are the subject here

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distilray.corpus.sentences import split_sentences

CASES = {
    "two sentences": ["It ended.", "They left."],
    "titles": ["Dr. Smith met Mrs. Jones.", "They talked."],
    "initials": ["J. R. R. Tolkien wrote it.", "He was born in 1892."],
    "a country": ["He lived in the U.S. on a farm.", "It burned."],
    "a country at the end": ["He lived in the U.S.", "The farm burned."],
    "decimals": ["It cost $3.5 million.", "That is 2.7 times more."],
    "a quote": ['He said "Go away."', "Then he left."],
    "a question in a quote": ['"What is it?" she asked.', "He knew."],
    "exclamation": ["It works!", "Really?", "Yes."],
    "latin": ["Many animals (e.g. Dogs) bark.", "Cats do not."],
    "a company": ["He works at Foo Inc. and Bar Ltd. in town.", "It pays."],
    "a rough number": ["Approx. 3 km of road were built.", "It took approx. 50 men."],
    "an army": ["The U.S. Army went home.", "The U.S. Navy stayed."],
    "a quote in a bracket": ["He left (it was late).", "They stayed."],
    "a sentence in brackets": ["(He left early.)", "She stayed."],
    "an abbreviation in brackets": ["Apples, pears (etc.) Dogs like."],
    "a curly quote": ["“Go away.”", "He left."],
    "an ellipsis": ["He went...", "Then he came."],
    "an ellipsis inside": ["The object ... is deterrence.", "It ends."],
    "for example": ["Some (e.g. Rex) bark, e.g. Fido.", "Cats, i.e. Tom, do not."],
    "that is to say": ["He met two, i.e. Tom and Ann.", "They talked."],
    "and others": ["Smith et al. found it.", "They wrote."],
    "a number": ["See No. 5 for it.", "He took no. 7 then."],
    "a work": ["Symphony No. 9, Op. 125, is long.", "It is loud."],
    "a volume": ["It stands in vol. 2 of it.", "See pp. 5 and fig. 3 there."],
    "about a year": ["He died c. 1900.", "It was built ca. 1300."],
    "a time of day": ["At 5 p.m. he left.", "It was dark."],
    "a degree": ["He has a Ph.D. in law.", "He works."],
    "a month": ["He was born on Jan. 5 there.", "He died."],
    "a species": ["The bug is E. coli there.", "It lives."],
    "a fort": ["He lived in Ft. Worth then.", "He left."],
    "a case": ["It followed Roe v. Wade closely.", "It ended."],
    "a king": ["He served King George V.", "Then he died."],
    "a question with a sign": ["Who did it?!", "He did."],
    "a bound": ["It takes max. 5 hours and min. 3 men.", "It ran for 5 min.", "Then it stopped."],
    "an equation": ["See Eq. (5) and Eqs. (6)–(8).", "See Refs. [3] and Sec. IV there."],
    "a labelled figure": ["See Fig. A1, Tab. B and App. C here.", "It is clear."],
    "two rough years": ["He lived c. 1200–c. 1250 in Rome.", "He left."],
    "a title before a name that is a word": ["The film Dr. No was a hit.", "He met Dr. Who."],
    "saints": ["SS. Peter and Paul is a church.", "He joined the SS.", "Later he left."],
    "a name with a dot in front": ["It runs on the .NET Framework.", "He uses a .22 Long Rifle."],
    "joined initials": ["J.-P. Sartre wrote it.", "They read it."],
    "an abbreviation inside a compound": ["It took a pro-U.S. stance.", "It ended."],
}


@pytest.mark.parametrize("case", CASES)
def test_text_splits_where_sentences_end(case: str) -> None:
    assert split_sentences(" ".join(CASES[case])) == CASES[case]


LANGUAGES = {
    "ar": ["جاء د. أحمد سالم.", "هل هو كبير؟", "نعم!"],
    "bn": ["ডা. রায় এলেন।", "এটি বড়।", "দৈর্ঘ্য ৩.৫ কিমি।"],
    "cs": ["Dne 3. května 1990 přišel sv. Václav, např. do Prahy.", "Karel IV. vládl atd.", "Potom zemřel r. 1378."],
    "da": ["Den 2. Division kom bl.a. til Odense.", "Han blev nummer 3.", "Derefter rejste han."],
    "de": [
        "Am 3. Mai 1990 gewann der 1. FC Köln das 2. Spiel.",
        "Friedrich II. König von Preußen, d. h. Friedrich der Große, lebte im 18. Jahrhundert.",
        "Er mag z. B. Äpfel usw.", "Danach wurde er nur 3.", "Später half ihm die Fa. Hansen.",
    ],
    "el": ["Τι είναι αυτό;", "Ο κ. Παπαδόπουλος ήρθε."],
    "es": [
        "¿Qué es esto?", "¡Vete ya!", "El Sr. Paz vivió en EE. UU. con Dña. Ana.", "Murió en 300 a. C.",
        "Después, nada.",
    ],
    "fa": ["این بندر است.", "آیا بزرگ است؟"],
    "fi": ["Se oli 3. toukokuuta, esim. Helsingissä.", "Kaarle XII. kuoli jne.", "Sitten hän lähti."],
    "fr": [
        "« Va-t'en ! » dit M. Dupont.", "Il vécut vers 300 av. J.-C. à Rome.", "Qui est-ce ?", "L'art. 5 le dit, etc.",
        "Il partit.",
    ],
    "hi": ["डॉ. शर्मा और एम. के. गांधी आए।", "वह बड़ा है॥", "ई. पू. 300 में क्या था?"],
    "hu": ["A XIX. század elején, pl. Budapesten élt.", "Dr. Nagy volt a 3.", "Később elment."],
    "hy": ["Սա նավահանգիստ է։", "Այն մեծ է։"],
    "it": ["Il sig. Rossi nacque nel 300 a.C. a Roma.", "Vedi l'art. 3.", "C'erano navi, ecc.", "Poi partì."],
    "ja": ["人口は5人。", "1990年に「行け。」と彼は言った。", "本当？",
        "ドラマ『行け！』を見た。", "「さあ。」", "しかし、彼は帰った。"],
    "he": ["א. ב. יהושע כתב.", "סוף."],
    "ko": ["“가자.”라고 그가 말했다.", "그는 1990. 5. 3.에 태어났다.", "끝."],
    "ta": ["கி.மு. 500 இல் இருந்தது.", "முடிவு."],
    "ka": ["ეს ნავსადგურია.", "ის დიდია."],
    "km": ["នេះជាកំពង់ផែ។", "វាធំ។"],
    "nb": ["Den 17. mai kom kong Olav V. til Oslo.", "Der bodde han bl.a. lenge."],
    "nl": ["Dhr. De Vries woonde o.a. in Den Haag.", "Hij had boten enz.", "Daarna ging hij."],
    "no": ["Det var 3. Divisjon.", "Han kom f.eks. til Bergen."],
    "pl": [
        "Urodził się 3 maja 1990 r. w Warszawie.", "Ks. Jan był na ul. Długiej, tzn. w mieście.",
        "W XIX w. Polska itd.", "Potem wyjechał.",
    ],
    "pt": ["O Sr. Silva chegou no séc. V, p. ex. a Lisboa.", "Viu a pág. 5.", "Tinha barcos etc.", "Depois partiu."],
    "ru": [
        "В 1990 г. Иванов жил на ул. Пушкина, т. е. Москва ему нравилась.", "Завод им. Ленина закрыт в XX в.",
        "Он пуст.", "«Уходи!» — сказал он.", "Были Пётр, Иван и др.", "Люди ушли.",
    ],
    "sv": ["Han kom t.ex. till St. Erik kl. 5.", "Det var 300 f.Kr.", "Sedan gick han."],
    "tr": ["M.Ö. 300 yılında Doç. Dr. Kaya geldi.", "II. Mehmed gitti.", "Bkz. Ankara."],
    "uk": ["У 1990 р. Іван жив на вул. Франка.", "Був XIX ст.", "Він помер."],
    "ur": ["یہ بندرگاہ ہے۔", "کیا یہ بڑا ہے؟"],
    "zh": ["人口是5人。", "1990年他说：“走开！”", "“真的吗？”他问。", "《你好！》是一本书。"],
}  # fmt: skip


@pytest.mark.parametrize("language", LANGUAGES)
def test_text_splits_by_the_rules_of_its_language(language: str) -> None:
    space = "" if language in ("ja", "zh") else " "
    assert split_sentences(space.join(LANGUAGES[language]), language) == LANGUAGES[language]


CLAUSE = "ท่าเรือแห่งนี้สร้างขึ้นเมื่อต้นศตวรรษที่ยี่สิบ"
# Name, language, text and its sentences.
OTHER_CASES = [
    ("a language with a region", "de-CH", "Am 3. Mai kam er.", ["Am 3. Mai kam er."]),
    ("an initial at the start", "it", "G. Verdi compose.", ["G. Verdi compose."]),
    ("a full stop in Thai", "th", "ดร. สมชาย มาที่นี่", ["ดร. สมชาย มาที่นี่"]),
    ("long clauses of Thai", "th", f"{CLAUSE} มาก {CLAUSE} 1990 {CLAUSE}", [CLAUSE, f"มาก {CLAUSE} 1990 {CLAUSE}"]),
    ("a line break in Chinese", "zh", "这个港口很\n大。它很古老。", ["这个港口很大。", "它很古老。"]),
    ("a paragraph break", "en", "He said\n\nthat it ended", ["He said", "that it ended"]),
    ("white space", "en", "It \t was\nover\u00a0now.  It is.", ["It was over now.", "It is."]),
    ("lower case", "en", "He asked why? and left.", ["He asked why? and left."]),
    ("a bracket", "en", "(It gives tables (of scales).) It is.", ["(It gives tables (of scales).)", "It is."]),
]


@pytest.mark.parametrize(
    ("language", "text", "expected"), [pytest.param(*case, id=name) for name, *case in OTHER_CASES]
)
def test_text_splits_at_paragraphs_and_not_at_spaces(language: str, text: str, expected: list[str]) -> None:
    assert split_sentences(text, language) == expected


def test_a_closing_bracket_stays_with_its_sentence() -> None:
    assert not [part for part in split_sentences("He left (she asked. Why? ). They met.") if part.startswith(")")]


@settings(deadline=None)
@given(
    st.text(alphabet="aB. \n?!\"'(1)\u00a0é。」と说กข1z"),
    st.sampled_from(["en", "de", "ja", "zh", "th", "ru", "km"]),
)
def test_no_word_is_lost_or_added(text: str, language: str) -> None:
    assert "".join("".join(split_sentences(text, language)).split()) == "".join(text.split())
