"""Encode a corpus: documents -> segment pairs -> masked examples -> Arrow shards.

    python -m jobs.encode_corpus --recipe jobs/recipes/encode_corpus/quickstart.yaml [--dry-run] [a.b=value ...]
    ray job submit --address ADDRESS --working-dir . --runtime-env jobs/runtime_env.yaml -- \
        python -m jobs.encode_corpus --recipe jobs/recipes/encode_corpus/card.yaml

Reads:  a run folder of jobs.build_corpus; a tokenizer folder.
Writes: shards/{train,heldout}-<first key>.arrow (schema EXAMPLES) and manifest.json in run_dir.
"""

import sys

from distilray.stages import command

main = command("encode_corpus", __doc__)

if __name__ == "__main__":
    sys.exit(main())
