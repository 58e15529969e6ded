"""Train a WordPiece tokenizer on documents, or copy the tokenizer of the teacher.

    python -m jobs.train_tokenizer --recipe jobs/recipes/train_tokenizer/quickstart.yaml [--dry-run] [a.b=value ...]
    ray job submit --address ADDRESS --working-dir . --runtime-env jobs/runtime_env.yaml -- \
        python -m jobs.train_tokenizer --recipe jobs/recipes/train_tokenizer/card.yaml

Reads:  a run folder of jobs.build_corpus, or a model folder.
Writes: tokenizer.json, tokenizer_config.json, vocab.txt and manifest.json in run_dir; AutoTokenizer can load it.
"""

import sys

from distilray.stages import command

main = command("train_tokenizer", __doc__)

if __name__ == "__main__":
    sys.exit(main())
