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
from collections.abc import Sequence

from distilray.config.export.variants import ExportModelConfig
from distilray.evaluation.export.table import show_export
from distilray.evaluation.export.variants import export_inputs, export_model, plan_export
from distilray.models.model_source import pinned
from distilray.runtime.job import Job

JOB = Job(
    name="export_model",
    config_class=ExportModelConfig,
    prepare=lambda config: config.model_copy(update={"model_dir": pinned(config.model_dir)}),
    inputs=export_inputs,
    plan=plan_export,
    run=export_model,
    about=__doc__,
    show=show_export,
)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the job; returns its exit code."""
    return JOB.main(argv)


if __name__ == "__main__":
    sys.exit(main())
