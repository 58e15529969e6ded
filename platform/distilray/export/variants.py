"""Model export: builds the formats, compares them with the model, publishes those that pass, and reports results."""

import json
import os
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from distilray.config.export import LOSSY, VARIANTS, ExportModelConfig, Variant
from distilray.errors import DataQualityError
from distilray.export.gate import (
    GateScores,
    ParityResult,
    compare_logits,
    gate_scores,
    gate_violations,
    parity_cases,
    predict_masks,
)
from distilray.export.onnx import int8_graph, onnx_graph, standard_onnx_graph
from distilray.export.text import MaskedBatches, masked_text
from distilray.inference.backends import TorchMaskedLM, open_masked_lm
from distilray.models.hub import check_push
from distilray.models.masked_lm import (
    SAFETENSORS_METADATA,
    companion_files,
    count_parameters,
    load_masked_lm,
    model_tensors,
)
from distilray.models.onnx_format import ONNX_FILE, ONNX_PACKAGES, import_onnx_package
from distilray.models.processor import cpu_features, cpu_name, format_cpu_features
from distilray.models.sources import WEIGHTS_FILE, localize
from distilray.pretraining_data.shards import check_vocabulary
from distilray.pretraining_data.tokenizer import read_tokenizer
from distilray.runtime import storage
from distilray.runtime.job import Outcome
from distilray.runtime.progress import Progress
from distilray.runtime.run_folder import RunFolder

REPORT_FILE = "parity_report.json"


@dataclass(frozen=True)
class ExportSource:
    """Model to export, and the text for comparing formats."""

    model_dir: str
    model: Any
    tokenizer_json: str
    text: MaskedBatches | None

    @classmethod
    def open(cls, config: ExportModelConfig) -> "ExportSource":
        """Load the model and the text.

        Raises:
            InputError: the model or the text cannot be used, or a package is missing.
        """
        if any(variant.startswith("onnx") for variant in config.variants):
            for package in ONNX_PACKAGES:
                import_onnx_package(package)
        model_dir = localize(config.model_dir)
        model, tokenizer_json = load_masked_lm(model_dir), read_tokenizer(model_dir)
        if config.shards_dir is not None:
            size = model.config.vocab_size
            check_vocabulary(config.shards_dir, tokenizer_json, model=config.model_dir, embeddings=size)
        return cls(
            model_dir, model, tokenizer_json, masked_text(config, tokenizer_json, model.config.max_position_embeddings)
        )


def plan_export(config: ExportModelConfig) -> dict[str, object]:
    """Validate the inputs of `export_model` and describe the run."""
    source = ExportSource.open(config)
    if config.push.repo_id is not None:
        check_push(config.push.repo_id)
    text = source.text
    return {
        "model": f"{source.model_dir}: {count_parameters(source.model):,} parameters",
        "formats": ", ".join(config.variants),
        "compared on": f"{text.examples:,} examples, {text.masks:,} masks" if text else "random inputs only",
        "CPU": f"{cpu_name()}: {format_cpu_features(cpu_features())}",
        "upload": config.push.repo_id or "none",
    }


def export_model(config: ExportModelConfig, folder: RunFolder) -> Outcome:
    """Write a folder for each format, and `parity_report.json`.

    Raises:
        DataQualityError: a format deviates too much from the model. It is not published; the report has the details.
    """
    torch.set_num_threads(os.cpu_count() or 1)
    for variant in VARIANTS:
        storage.remove_folder(folder.path(variant))  # left by an interrupted run
    source = ExportSource.open(config)
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary)
        parity = _build(config, source, work)
        scores = _score_formats(config, source, work)
        report = _report(config, source, work, parity, scores)
        storage.write_bytes(folder.path(REPORT_FILE), json.dumps(report, indent=1).encode())
        _check_parity(config, parity, folder)
        outputs: dict[str, Any] = {}
        for variant in config.variants:
            if report["variants"][variant]["published"]:
                outputs |= _publish(work, variant, folder)
    _check_quality(report, folder)
    return _outcome(report, outputs)


def write_onnx_folder(folder: Path, model: Any, tokenizer_json: str, graph: bytes) -> None:
    """Write a folder that `OnnxMaskedLM` can load.

    Args:
        graph: result of `onnx_graph`, `standard_onnx_graph` or `int8_graph`.
    """
    _write_companions(folder, model, tokenizer_json, torch.float32)
    (folder / ONNX_FILE).write_bytes(graph)


def write_bf16_folder(folder: Path, model: Any, tokenizer_json: str) -> None:
    """Write a model folder of half the size that plain `transformers` can load."""
    _write_companions(folder, model, tokenizer_json, torch.bfloat16)
    tensors = {name: tensor.to(torch.bfloat16) for name, tensor in model_tensors(model).items()}
    save_file(tensors, folder / WEIGHTS_FILE, metadata=SAFETENSORS_METADATA)


def _write_companions(folder: Path, model: Any, tokenizer_json: str, dtype: torch.dtype) -> None:
    folder.mkdir(parents=True)
    for name, data in companion_files(model, tokenizer_json, dtype).items():
        (folder / name).write_bytes(data)


def _build(config: ExportModelConfig, source: ExportSource, work: Path) -> list[ParityResult]:
    """Write the folders of all formats below `work`, and return the comparison of the ONNX graphs with the model."""
    parity: list[ParityResult] = []
    with Progress("export_model: formats", total=len(config.variants), unit="formats") as progress:
        if "onnx-standard" in config.variants:
            write_onnx_folder(
                work / "onnx-standard", source.model, source.tokenizer_json, standard_onnx_graph(source.model)
            )
            parity += _parity(config, source, work / "onnx-standard")
            progress.advance()
        if "onnx" in config.variants or "onnx-int8" in config.variants:
            graph = onnx_graph(source.model)
            write_onnx_folder(work / "onnx", source.model, source.tokenizer_json, graph)
            parity += _parity(config, source, work / "onnx")
            progress.advance(int("onnx" in config.variants))
            if "onnx-int8" in config.variants:
                int8 = int8_graph(graph, per_channel=config.int8.per_channel, reduce_range=config.int8.reduce_range)
                write_onnx_folder(work / "onnx-int8", source.model, source.tokenizer_json, int8)
                progress.advance()
        if "bf16" in config.variants:
            write_bf16_folder(work / "bf16", source.model, source.tokenizer_json)
            progress.advance()
    return parity


def _parity(config: ExportModelConfig, source: ExportSource, onnx_dir: Path) -> list[ParityResult]:
    model_config = source.model.config
    cases = parity_cases(
        vocabulary_size=model_config.vocab_size, max_length=model_config.max_position_embeddings, seed=config.seed
    )
    return compare_logits(TorchMaskedLM(source.model), open_masked_lm(str(onnx_dir)), cases, graph=onnx_dir.name)


def _score_formats(config: ExportModelConfig, source: ExportSource, work: Path) -> dict[str, GateScores]:
    """Compare the model itself (`source`) and every format with the model on the text. Empty without a text."""
    text = source.text
    if text is None:
        return {}
    predictions = {}
    with Progress("export_model", total=text.examples * (len(config.variants) + 1), unit="examples") as progress:
        for name in ("source", *config.variants):
            model = TorchMaskedLM(source.model) if name == "source" else open_masked_lm(str(work / name))
            predictions[name] = predict_masks(model, text.batches, lambda rows, name=name: progress.advance(rows, name))  # type: ignore[misc]
    return {name: gate_scores(predictions["source"], own) for name, own in predictions.items()}


def _report(
    config: ExportModelConfig,
    source: ExportSource,
    work: Path,
    parity: list[ParityResult],
    scores: Mapping[str, GateScores],
) -> dict[str, Any]:
    """Return the content of `parity_report.json`."""
    exceeds_limit = _max_difference(parity) > config.max_logit_difference
    variants: dict[str, Any] = {}
    for variant in config.variants:
        refused = gate_violations(scores[variant], config.gate) if variant in LOSSY else []
        if exceeds_limit:
            refused = [f"logits differ by {_max_difference(parity):.2g} (at most {config.max_logit_difference:.2g})"]
        variants[variant] = {
            "megabytes": max(file.stat().st_size for file in (work / variant).iterdir()) / 1e6,
            **(asdict(scores[variant]) if variant in scores else {}),
            "refused": refused,
            "published": not refused,
        }
    return {
        "model": {
            "parameters": count_parameters(source.model),
            "weights_sha256": storage.sha256(storage.join(source.model_dir, WEIGHTS_FILE)),
            "megabytes": (storage.file_size(storage.join(source.model_dir, WEIGHTS_FILE)) or 0) / 1e6,
            **({"pseudo_perplexity": scores["source"].pseudo_perplexity} if scores else {}),
        },
        "cpu": {"name": cpu_name(), "features": cpu_features()},
        "packages": {name: metadata.version(name) for name in (*ONNX_PACKAGES, "torch") if parity or name == "torch"},
        "parity": {
            "limit": config.max_logit_difference,
            "max_difference": _max_difference(parity),
            "cases": [asdict(result) for result in parity],
        },
        "text": _text_counts(source.text),
        "gate": config.gate.model_dump(),
        "int8": config.int8.model_dump(),
        "variants": variants,
    }


def _text_counts(text: MaskedBatches | None) -> dict[str, int]:
    return {} if text is None else {"examples": text.examples, "masks": text.masks, "dropped": text.dropped}


def _max_difference(parity: list[ParityResult]) -> float:
    return max((result.max_difference for result in parity), default=0.0)


def _check_parity(config: ExportModelConfig, parity: list[ParityResult], folder: RunFolder) -> None:
    bad = [result for result in parity if not result.max_difference <= config.max_logit_difference]
    if bad:
        raise DataQualityError(
            f"nothing is published: the logits of the ONNX graph differ by {_max_difference(parity):.2g} from those of "
            f"the model (at most {config.max_logit_difference:.2g}); see {folder.path(REPORT_FILE)}",
            [
                f"{case.graph}: {case.batch} x {case.length}, {case.masks} masks: {case.max_difference:.2g}"
                for case in bad
            ],
        )


def _check_quality(report: Mapping[str, Any], folder: RunFolder) -> None:
    refused = {name: entry["refused"] for name, entry in report["variants"].items() if entry["refused"]}
    if refused:
        kept = [name for name in report["variants"] if name not in refused]
        raise DataQualityError(
            f"{', '.join(refused)} not published: limits of `gate` exceeded; see {folder.path(REPORT_FILE)}; to export "
            f"only the others: variants='[{', '.join(kept)}]' and another run_dir",
            [f"{name}: {violation}" for name, violations in refused.items() for violation in violations],
        )


def _publish(work: Path, variant: Variant, folder: RunFolder) -> dict[str, Any]:
    """Copy the folder of a format into the run folder, and return the size and sha256 of its files."""
    outputs = {}
    for file in sorted((work / variant).iterdir()):
        target = folder.path(variant, file.name)
        storage.write_bytes(target, file.read_bytes())
        outputs[f"{variant}/{file.name}"] = {"bytes": file.stat().st_size, "sha256": storage.sha256(target)}
    return outputs


def _outcome(report: Mapping[str, Any], outputs: Mapping[str, Any]) -> Outcome:
    sizes = [f"{name} {entry['megabytes']:.1f} MB" for name, entry in report["variants"].items()]
    parity = f", ONNX logits within {report['parity']['max_difference']:.1g}" if report["parity"]["cases"] else ""
    counts = {key: report[key] for key in ("text", "variants")}
    return Outcome(
        f"{', '.join(sizes)} of {report['model']['megabytes']:.1f} MB{parity}",
        {"parameters": report["model"]["parameters"], **counts, "timing": {"cpu": report["cpu"]}},
        outputs,
    )
