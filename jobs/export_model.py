"""Export a model as ONNX, int8 ONNX and bf16; a variant is written only if it agrees with the model.

    python -m jobs.export_model --recipe jobs/recipes/export_model/quickstart.yaml [--dry-run] [a.b=value ...]
    python -m jobs.export_model --recipe FILE push.repo_id=OWNER/NAME      (uploads the run, even if it is complete)
    ray job submit --address ADDRESS --working-dir . --runtime-env jobs/runtime_env.yaml -- \
        python -m jobs.export_model --recipe jobs/recipes/export_model/card.yaml

Reads:  a model or run folder, or hub:OWNER/NAME; a text or held-out shards to evaluate int8 and bf16 on.
Writes: a folder per variant (onnx/, onnx-standard/, onnx-int8/, bf16/), parity_report.json, manifest.json in run_dir;
        prints the table.
"""

import sys

from distilray.stages import command

main = command("export_model", __doc__)

if __name__ == "__main__":
    sys.exit(main())
