"""Result table of a completed export, and its upload to the Hugging Face hub."""

import json
from typing import Any

from rich.table import Table

from distilray.config.export import ExportModelConfig
from distilray.console import print_tables
from distilray.export.variants import REPORT_FILE
from distilray.models.hub import README_FILE, push
from distilray.models.processor import format_cpu_features, has_fast_int8
from distilray.models.sources import SAVED_FILES, localize
from distilray.runtime import storage
from distilray.runtime.run_folder import RunFolder


def show_export(folder: RunFolder) -> None:
    """Print the table of `parity_report.json`, and upload the completed run if its recipe sets `push.repo_id`.

    Raises:
        InputError: the upload failed. The run remains complete.
    """
    report = json.loads(storage.read_bytes(folder.path(REPORT_FILE)))
    print_tables(_table(report))
    features = report["cpu"]["features"]
    print(f"CPU: {report['cpu']['name']} ({format_cpu_features(features)})")
    if "onnx-int8" in report["variants"] and not has_fast_int8(features) and not report["int8"]["reduce_range"]:
        print("onnx-int8: this CPU has no 8-bit dot product, so sums may overflow; try int8.reduce_range=true")
    config = folder.config
    assert isinstance(config, ExportModelConfig)
    if config.push.repo_id is not None:
        files = pushed_files(config, folder)
        message = f"{', '.join(config.variants)} of {report['model']['weights_sha256'][:12]}"
        address = push(files, repo_id=config.push.repo_id, private=config.push.private, message=message)
        print(f"uploaded {len(files)} files -> {address}")


def pushed_files(config: ExportModelConfig, folder: RunFolder) -> dict[str, str]:
    """Return the files of an upload: model, report and model card at the top level, and one folder per format."""
    source = localize(config.model_dir)
    model_files = {name: storage.join(source, name) for name in SAVED_FILES}
    reports = {name: folder.path(name) for name in (REPORT_FILE, README_FILE)}
    formats = {
        f"{variant}/{uri.rpartition('/')[2]}": uri
        for variant in config.variants
        for uri in storage.list_files(folder.path(variant))
    }
    return {name: uri for name, uri in {**model_files, **reports, **formats}.items() if storage.exists(uri)}


def _table(report: dict[str, Any]) -> Table:
    text = report["text"]
    sample = f" on {text['examples']:,} examples, {text['masks']:,} masks" if text else ""
    table = Table(title=f"export{sample}")
    for heading in ("", "MB", "same best token", "pseudo-perplexity", "change"):
        table.add_column(heading, justify="right" if heading else "left")
    model = report["model"]
    perplexity = f"{model['pseudo_perplexity']:.2f}" if text else ""
    table.add_row("model", f"{model['megabytes']:.1f}", "", perplexity, "")
    for name, entry in report["variants"].items():
        scores = ["", "", ""]
        if text:
            change = entry["pseudo_perplexity_change"]
            scores = [f"{entry['agreement']:.2%}", f"{entry['pseudo_perplexity']:.2f}", f"{change:+.2%}"]
        table.add_row(name, f"{entry['megabytes']:.1f}", *scores)
    return table
