"""Build a corpus: dumps of wiki pages, books and other texts become documents of clean sentences.

    python -m jobs.build_corpus --recipe jobs/recipes/build_corpus/quickstart.yaml [--dry-run] [a.b=value ...]
    ray job submit --address ADDRESS --working-dir . --runtime-env jobs/runtime_env.yaml -- \
        python -m jobs.build_corpus --recipe jobs/recipes/build_corpus/card.yaml

Reads:  `sources`, each a dump, books, Parquet, JSON lines, CSV or text (paths or URIs); `decontamination.paths`.
Writes: `run_dir/documents/*.parquet` (schema `documents/1`), `corpus_report.json`, `quarantine.jsonl`,
        `manifest.json` with what was kept and dropped.
"""

import sys
from collections.abc import Sequence

from distilray.config.corpus import BuildCorpusConfig
from distilray.corpus.inputs import input_uris
from distilray.corpus.pipeline import build_corpus, plan_corpus
from distilray.runtime.job import Job

JOB = Job(
    name="build_corpus",
    config_class=BuildCorpusConfig,
    inputs=input_uris,
    plan=plan_corpus,
    run=build_corpus,
    about=__doc__,
)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the job; returns its exit code."""
    return JOB.main(argv)


if __name__ == "__main__":
    sys.exit(main())
