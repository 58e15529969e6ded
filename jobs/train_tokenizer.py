"""Train a tokenizer: documents -> lower-cased WordPiece vocabulary, or the teacher's own tokenizer taken over.

    python -m jobs.train_tokenizer --recipe jobs/recipes/train_tokenizer/quickstart.yaml [--dry-run] [a.b=value ...]
    ray job submit --address ADDRESS --working-dir . --runtime-env jobs/runtime_env.yaml -- \
        python -m jobs.train_tokenizer --recipe jobs/recipes/train_tokenizer/card.yaml

Reads:  a run folder of jobs.build_corpus, or a model folder.
Writes: tokenizer.json, tokenizer_config.json, vocab.txt and manifest.json in run_dir, which AutoTokenizer loads.
"""

import sys
from collections.abc import Sequence

from distilray.config.pretraining_data import TrainTokenizerConfig
from distilray.models.model_source import local_tokenizer
from distilray.pretraining_data.tokenizer_training import plan_tokenizer, tokenizer_inputs, train_tokenizer
from distilray.runtime.job import Job

JOB = Job(
    name="train_tokenizer",
    config_class=TrainTokenizerConfig,
    prepare=lambda config: config.model_copy(update={"teacher_dir": local_tokenizer(config.teacher_dir or "") or None}),
    inputs=tokenizer_inputs,
    plan=plan_tokenizer,
    run=train_tokenizer,
    about=__doc__,
)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the job; returns its exit code."""
    return JOB.main(argv)


if __name__ == "__main__":
    sys.exit(main())
