"""Plain-text corpus from the training texts of GLUE, for language-model training.

Only the train split is used, without labels. SST-2 has separate rows for the phrases of a sentence, so a text that is
contained in another text of its task is dropped.
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

TEXT_FOLDER = "text"  # in the run folder; a source of jobs.build_corpus with `document_per: blank_line`
TEXTS_PER_DOCUMENT = 32  # consecutive rows of the file, so that segment pairs can be formed
_PREFIX_WORDS = 3  # length of the index keys; every text is at least this long


def plan_glue_text(config: WriteGlueTextConfig) -> dict[str, object]:
    """Validate the inputs of `write_glue_text` and return its plan.

    Raises:
        InputError: a task is missing, or its files differ from the official ones.
    """
    _, missing = find_tasks(config.glue_dir, config.tasks)
    if missing:
        raise InputError(f"{config.glue_dir}: no folder for {', '.join(missing)}; add it or remove the task from tasks")
    rows = {task: len(load_task(config.glue_dir, task).train) for task in config.tasks}
    return {"texts": ", ".join(f"{count:,} rows of {task}" for task, count in rows.items())}


def write_glue_text(config: WriteGlueTextConfig, folder: RunFolder) -> Outcome:
    """Write `text/TASK.txt` with one text per line and a blank line between documents.

    Raises:
        InputError: a task has no text that is long enough.
    """
    counts: dict[str, dict[str, int]] = {}
    outputs: dict[str, dict[str, object]] = {}
    for task in config.tasks:
        texts = list(_texts(load_task(config.glue_dir, task).train))
        long_enough = [text for text in texts if len(text.split()) >= config.min_words]
        if not long_enough:
            raise InputError(f"min_words: no text of {task} has {config.min_words} words; lower it")
        kept = drop_contained_texts(long_enough)
        counts[task] = {
            "texts": len(texts),
            "too_short": len(texts) - len(long_enough),
            "inside_another": len(long_enough) - len(kept),
            "kept": len(kept),
        }
        name = f"{TEXT_FOLDER}/{task}.txt"
        storage.write_bytes(folder.path(name), _documents(kept).encode())
        outputs |= folder.describe_outputs([name])
    kept_texts = ", ".join(f"{row['kept']:,} of {row['texts']:,} texts of {task}" for task, row in counts.items())
    return Outcome(f"kept {kept_texts}", counts, outputs)


def drop_contained_texts(texts: Sequence[str]) -> list[str]:
    """Drop texts that are contained in another text as a sequence of words; of equal texts, the first is kept.

    Args:
        texts: texts of at least three words, separated by single spaces.
    """
    # Positions of each three-word sequence in the texts kept so far, longest texts first.
    positions: dict[tuple[str, ...], list[tuple[list[str], int]]] = defaultdict(list)
    kept = []
    for index in sorted(range(len(texts)), key=lambda index: (-len(texts[index].split()), index)):
        words = texts[index].split()
        candidates = positions.get(tuple(words[:_PREFIX_WORDS]), ())
        if any(other[start : start + len(words)] == words for other, start in candidates):
            continue
        kept.append(index)
        for start in range(len(words) - _PREFIX_WORDS + 1):
            positions[tuple(words[start : start + _PREFIX_WORDS])].append((words, start))
    return [texts[index] for index in sorted(kept)]


def _texts(examples: Examples) -> Iterator[str]:
    """Yield the texts of all rows; the two texts of a pair are consecutive."""
    columns: Iterable[tuple[str, ...]] = zip(
        *(column for column in (examples.first, examples.second) if column is not None), strict=True
    )
    return (" ".join(text.split()) for row in columns for text in row)


def _documents(texts: Sequence[str]) -> str:
    return "\n".join(
        "".join(f"{text}\n" for text in texts[start : start + TEXTS_PER_DOCUMENT])
        for start in range(0, len(texts), TEXTS_PER_DOCUMENT)
    )
