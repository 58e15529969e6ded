"""The training texts of GLUE as plain text without labels, for a corpus that a language model is trained on.

Labels, dev sets and test sets are not read into it. SST-2 lists the phrases of each sentence as rows of their own: a
text that stands inside another text of its task is left out.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence

from distilray.config.evaluation import WriteGlueTextConfig
from distilray.errors import InputError
from distilray.finetuning.examples import Examples
from distilray.finetuning.files import find_tasks, load_task
from distilray.runtime import storage
from distilray.runtime.job import Outcome
from distilray.runtime.run_folder import RunFolder

TEXT_FOLDER = "text"  # of a run: a source of jobs.build_corpus with `document_per: blank_line`
TEXTS_PER_DOCUMENT = 32  # neighbours in the file, so that sentences have a next one
_KNOWN_BY = 3  # first words that a text is looked up by; no text has fewer


def plan_glue_text(config: WriteGlueTextConfig) -> dict[str, object]:
    """Validates the inputs of `write_glue_text` and says what it would do.

    Raises:
        InputError: a task is missing, or its files are not the official ones.
    """
    _, missing = find_tasks(config.glue_dir, config.tasks)
    if missing:
        raise InputError(f"{config.glue_dir}: no folder for {', '.join(missing)}; put it there, or shorten tasks")
    rows = {task: len(load_task(config.glue_dir, task).train) for task in config.tasks}
    return {"texts": ", ".join(f"{count:,} rows of {task}" for task, count in rows.items())}


def write_glue_text(config: WriteGlueTextConfig, folder: RunFolder) -> Outcome:
    """Writes `text/TASK.txt`: a text in a line, a blank line between documents.

    Raises:
        InputError: no text of a task is long enough.
    """
    counts: dict[str, dict[str, int]] = {}
    outputs: dict[str, dict[str, object]] = {}
    for task in config.tasks:
        found = list(_texts(load_task(config.glue_dir, task).train))
        long_enough = [text for text in found if len(text.split()) >= config.min_words]
        if not long_enough:
            raise InputError(f"min_words: {config.min_words}, and no text of {task} has as many; lower it")
        kept = drop_contained_texts(long_enough)
        counts[task] = {
            "texts": len(found),
            "too_short": len(found) - len(long_enough),
            "inside_another": len(long_enough) - len(kept),
            "kept": len(kept),
        }
        name = f"{TEXT_FOLDER}/{task}.txt"
        storage.write_bytes(folder.path(name), _documents(kept).encode())
        outputs |= folder.describe_outputs([name])
    told = ", ".join(f"{found['kept']:,} of {found['texts']:,} texts of {task}" for task, found in counts.items())
    return Outcome(told, counts, outputs)


def drop_contained_texts(texts: Sequence[str]) -> list[str]:
    """The texts, in their order, that do not stand word by word inside another; of equal ones the first.

    Args:
        texts: of three words or more each, with single spaces.
    """
    # Where in the longer texts each run of three words stands.
    places: dict[tuple[str, ...], list[tuple[list[str], int]]] = defaultdict(list)
    kept = []
    for index in sorted(range(len(texts)), key=lambda index: (-len(texts[index].split()), index)):
        words = texts[index].split()
        known = places.get(tuple(words[:_KNOWN_BY]), ())
        if any(other[start : start + len(words)] == words for other, start in known):
            continue
        kept.append(index)
        for start in range(len(words) - _KNOWN_BY + 1):
            places[tuple(words[start : start + _KNOWN_BY])].append((words, start))
    return [texts[index] for index in sorted(kept)]


def _texts(examples: Examples) -> Iterator[str]:
    """The texts of the rows, the two of a pair one behind the other."""
    columns: Iterable[tuple[str, ...]] = zip(
        *(column for column in (examples.first, examples.second) if column is not None), strict=True
    )
    return (" ".join(text.split()) for row in columns for text in row)


def _documents(texts: Sequence[str]) -> str:
    return "\n".join(
        "".join(f"{text}\n" for text in texts[start : start + TEXTS_PER_DOCUMENT])
        for start in range(0, len(texts), TEXTS_PER_DOCUMENT)
    )
