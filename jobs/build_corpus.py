"""Build a corpus: dumps of wiki pages, books and other texts become documents of clean sentences.

    python -m jobs.build_corpus --recipe jobs/recipes/build_corpus/quickstart.yaml [--dry-run] [a.b=value ...]
    ray job submit --address ADDRESS --working-dir . --runtime-env jobs/runtime_env.yaml -- \
        python -m jobs.build_corpus --recipe jobs/recipes/build_corpus/card.yaml

Reads:  `sources`, each a dump, books, Parquet, JSON lines, CSV or text (paths or URIs); `decontamination.paths`.
Writes: `run_dir/documents/*.parquet` (schema `documents/2`), `corpus_report.json`, `quarantine.jsonl`,
        `manifest.json` with what was kept and dropped.
"""

import sys

from distilray.stages import command

main = command("build_corpus", __doc__)

if __name__ == "__main__":
    sys.exit(main())
