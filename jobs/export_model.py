"""Export a model: ONNX, int8 ONNX and bf16, each compared with the model and published only if it answers alike.

    python -m jobs.export_model --recipe jobs/recipes/export_model/quickstart.yaml [--dry-run] [a.b=value ...]
    python -m jobs.export_model --recipe FILE push.repo_id=OWNER/NAME      (a complete run is uploaded, not made again)
    ray job submit --address ADDRESS --working-dir . --runtime-env jobs/runtime_env.yaml -- \
        python -m jobs.export_model --recipe jobs/recipes/export_model/card.yaml

Reads:  a model or run folder, or hub:OWNER/NAME; a text or the held-out shards that int8 and bf16 are tried on.
Writes: a folder for each of `variants` (onnx/, onnx-standard/, onnx-int8/, bf16/), parity_report.json and manifest.json
        in run_dir; prints the table.
"""

import sys

from distilray.stages import command

main = command("export_model", __doc__)

if __name__ == "__main__":
    sys.exit(main())
