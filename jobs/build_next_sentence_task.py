"""Build a small task in GLUE's layout from a corpus: does sentence B follow sentence A?

    python -m jobs.build_next_sentence_task --recipe jobs/recipes/build_next_sentence_task/demo.yaml [key=value ...]
    ray job submit --address ADDRESS --working-dir . --runtime-env jobs/runtime_env.yaml -- \
        python -m jobs.build_next_sentence_task --recipe jobs/recipes/build_next_sentence_task/demo.yaml

Reads:  a run folder of jobs.build_corpus.
Writes: glue/Follows/{train,dev,test}.tsv and manifest.json in run_dir; glue/ is a glue_dir with the task `follows`.
"""

import sys

from distilray.stages import command

main = command("build_next_sentence_task", __doc__)

if __name__ == "__main__":
    sys.exit(main())
