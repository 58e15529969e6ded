"""Text into sentences."""

import sentencex

_LANGUAGE = "en"


def split_sentences(text: str) -> list[str]:
    """The sentences of a text, with single spaces inside; none goes across a paragraph break (a blank line).

    What goes on in lower case or with a closing sign after a full stop is one sentence: an abbreviation or a quoted
    question came before.
    """
    return [sentence for paragraph in _paragraphs(text) for sentence in _split_paragraph(paragraph)]


def _paragraphs(text: str) -> list[str]:
    lines = [" ".join(line.split()) for line in text.split("\n")]
    paragraphs, current = [], []
    for line in [*lines, ""]:
        if line:
            current.append(line)
        elif current:
            paragraphs.append(" ".join(current))
            current = []
    return paragraphs


def _split_paragraph(paragraph: str) -> list[str]:
    sentences: list[str] = []
    for piece in sentencex.segment(_LANGUAGE, paragraph):
        sentence = piece.strip()
        if sentences and sentence and _goes_on(sentence):
            sentences[-1] += " " + sentence
        elif sentence:
            sentences.append(sentence)
    return sentences


def _goes_on(piece: str) -> bool:
    return piece[0].islower() or piece[0] in ",;:)]" or not any(map(str.isalnum, piece))
