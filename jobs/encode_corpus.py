"""Encode a corpus: documents -> segment pairs -> masked examples -> Arrow shards.

    python -m jobs.encode_corpus --recipe jobs/recipes/encode_corpus/quickstart.yaml [--dry-run] [a.b=value ...]
    ray job submit --address ADDRESS --working-dir . --runtime-env jobs/runtime_env.yaml -- \
        python -m jobs.encode_corpus --recipe jobs/recipes/encode_corpus/card.yaml

Reads:  a run folder of jobs.build_corpus (documents/*.parquet), a tokenizer folder.
Writes: shards/{train,heldout}-<first key>.arrow (schema EXAMPLES) and manifest.json in run_dir.
"""

import sys
from collections.abc import Sequence

from distilray.config.pretraining_data import EncodeCorpusConfig
from distilray.models.model_source import local_tokenizer
from distilray.pretraining_data.pipeline import encode_corpus, encoding_inputs, plan_shards
from distilray.runtime.job import Job

JOB = Job(
    name="encode_corpus",
    config_class=EncodeCorpusConfig,
    prepare=lambda config: config.model_copy(update={"tokenizer_dir": local_tokenizer(config.tokenizer_dir)}),
    inputs=encoding_inputs,
    plan=plan_shards,
    run=encode_corpus,
    about=__doc__,
)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the job; returns its exit code."""
    return JOB.main(argv)


if __name__ == "__main__":
    sys.exit(main())
