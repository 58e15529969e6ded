"""Completed runs of a report."""

import csv
import hashlib
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import yaml

from distilray.config.report import ReportConfig
from distilray.errors import InputError
from distilray.models.sources import MODEL_FOLDER, WEIGHTS_FILE
from distilray.runtime import storage
from distilray.runtime.outputs import verify_file
from distilray.runtime.run_folder import CONFIG_FILE, MANIFEST_FILE, read_manifest

# Jobs whose runs a report can show, in the order of the pipeline.
JOBS = (
    "write_glue_text",
    "build_corpus",
    "train_tokenizer",
    "encode_corpus",
    "train_teacher",
    "cache_teacher",
    "distill",
    "export_model",
    "measure_efficiency",
    "evaluate_fill_mask",
    "evaluate_glue",
    "evaluate_bias",
    "build_next_sentence_task",
    "search_glue",
)
WEIGHTS = f"{MODEL_FOLDER}/{WEIGHTS_FILE}"
SCORES_FILE, EFFICIENCY_FILE = "scores.json", "efficiency.json"
TEACHER, STUDENT = "teacher", "student"

Values = Mapping[str, Any]


@dataclass(frozen=True, eq=False)
class Run:
    """A completed run of one job.

    Attributes:
        uri: run folder.
        name: folder name, preceded by as many parent folders as are needed to make it unique.
        manifest: content of the manifest; see `runtime.run_folder`.
    """

    uri: str
    name: str
    manifest: Values

    def __post_init__(self) -> None:
        if self.job not in JOBS:
            message = f"a run of '{self.job}', which a report cannot show; use runs of {', '.join(JOBS)}"
            raise InputError(f"{self.uri}: {message}")

    @property
    def job(self) -> str:
        return str(self.manifest["content"]["job"])

    @property
    def content_hash(self) -> str:
        return str(self.manifest["content_hash"])

    @property
    def config(self) -> Values:
        """Settings that determine the result."""
        return dict(self.manifest["content"]["config"])

    @property
    def config_hash(self) -> str:
        """SHA-256 of `config`; equal to `Config.identity_hash` of the recipe."""
        return hashlib.sha256(json.dumps(self.config, sort_keys=True).encode()).hexdigest()

    @property
    def counts(self) -> Values:
        return dict(self.manifest["content"]["counts"])

    @property
    def inputs(self) -> Mapping[str, Values]:
        """Inputs by name: `content_hash` of a run, or `bytes` and `fingerprint` of other data."""
        return dict(self.manifest["content"]["inputs"])

    @property
    def outputs(self) -> Mapping[str, Values]:
        return dict(self.manifest["content"]["outputs"])

    @property
    def record(self) -> Values:
        """Facts that do not determine the result, such as time, versions and hardware."""
        return dict(self.manifest["run"])

    @property
    def weights(self) -> Values:
        """`bytes` and `sha256` of the weights; empty for a run without a model."""
        return self.outputs.get(WEIGHTS, {})

    @cached_property
    def recipe(self) -> Values:
        """The complete recipe, including paths.

        Raises:
            InputError: `config.yaml` is missing or damaged.
        """
        try:
            return dict(yaml.safe_load(self._read(CONFIG_FILE))["config"])
        except (yaml.YAMLError, ValueError, LookupError, TypeError):
            raise InputError(f"{self.uri}/{CONFIG_FILE}: damaged; run {self.job} again") from None

    def has_input(self, other: "Run") -> bool:
        return any(entry.get("content_hash") == other.content_hash for entry in self.inputs.values())

    def has_file(self, name: str) -> bool:
        return storage.exists(storage.join(self.uri, name))

    def read_text(self, name: str) -> str:
        """Read a text file.

        Raises:
            InputError: the file is missing or not UTF-8.
        """
        try:
            return self._read(name).decode("utf-8")
        except UnicodeDecodeError:
            raise InputError(f"{self.uri}/{name}: not UTF-8 text; run {self.job} again") from None

    def read_json(self, name: str) -> dict[str, Any]:
        """Read a JSON file that contains an object.

        Raises:
            InputError: the file is missing or damaged.
        """
        try:
            content = json.loads(self.read_text(name))
        except json.JSONDecodeError as error:
            raise InputError(f"{self.uri}/{name}: not JSON (line {error.lineno}); run {self.job} again") from None
        if not isinstance(content, dict):
            raise InputError(f"{self.uri}/{name}: not a JSON object; run {self.job} again")
        return content

    def read_scores(self) -> dict[str, Any]:
        return self.read_json(SCORES_FILE)

    def read_json_lines(self, name: str) -> list[dict[str, Any]]:
        """Read a JSON Lines file of objects; return an empty list without the file.

        Raises:
            InputError: a line is damaged.
        """
        rows = []
        for number, line in enumerate(self.read_text(name).splitlines() if self.has_file(name) else (), 1):
            try:
                row = json.loads(line)
            except json.JSONDecodeError:
                row = None
            if not isinstance(row, dict):
                raise InputError(f"{self.uri}/{name}: line {number} is not a JSON object; run {self.job} again")
            rows.append(row)
        return rows

    def read_csv(self, name: str) -> list[dict[str, str]]:
        """Read a CSV file with a header; return an empty list without the file."""
        return list(csv.DictReader(io.StringIO(self.read_text(name)))) if self.has_file(name) else []

    def _read(self, name: str) -> bytes:
        if not self.has_file(name):
            raise InputError(f"{self.uri}: {name} is missing; run {self.job} again")
        uri = storage.join(self.uri, name)
        verify_file(uri)
        return storage.read_bytes(uri)


@dataclass(frozen=True)
class Runs:
    """Runs of a report, in the order of the pipeline."""

    runs: Sequence[Run]

    def __iter__(self) -> Iterator[Run]:
        return iter(self.runs)

    def __len__(self) -> int:
        return len(self.runs)

    def by_job(self, *jobs: str) -> list[Run]:
        return [run for run in self.runs if run.job in jobs]

    def title(self, run: Run) -> str:
        """Return the name of a run if there are several of its job, otherwise an empty string."""
        return run.name if len(self.by_job(run.job)) > 1 else ""

    @property
    def subject(self) -> Run | None:
        """Run whose model the report is about: the first run of `distill`, or else of `train_teacher`."""
        return next(iter([*self.by_job("distill"), *self.by_job("train_teacher")]), None)

    def with_hash(self, content_hash: str | None) -> Run | None:
        return next((run for run in self.runs if run.content_hash == content_hash), None)

    def input_of(self, run: Run, name: str) -> Run | None:
        """Return the run that is the named input of another run; None if it is not in the report."""
        return self.with_hash(run.inputs.get(name, {}).get("content_hash"))

    def input_is_subject(self, run: Run, name: str) -> bool:
        """Return True if the named input of a run is the subject's model."""
        subject, entry = self.subject, run.inputs.get(name, {})
        if subject is None:
            return False
        return subject.content_hash == entry.get("content_hash") or (
            "fingerprint" in entry and subject.weights.get("sha256") == entry["fingerprint"]
        )

    def fill_mask_scores(self) -> list[tuple[Run, str, Values]]:
        """Return the fill-mask runs that scored the subject, with its name in the scores and the scores."""
        names = [
            (run, next((name for name in (STUDENT, TEACHER) if self.input_is_subject(run, name)), None))
            for run in self.by_job("evaluate_fill_mask")
        ]
        return [(run, name, run.read_scores()) for run, name in names if name is not None]

    def glue_scores(self) -> list[tuple[Run, Values]]:
        """Return the GLUE runs that started from the subject's weights, with their scores."""
        sha256 = self.subject.weights.get("sha256") if self.subject else None
        scored = [(run, run.read_scores()) for run in self.by_job("evaluate_glue")]
        return [(run, scores) for run, scores in scored if sha256 and scores["model_hash"] == sha256]

    def bias_scores(self) -> list[tuple[Run, str, Values]]:
        """Return the bias runs that scored the subject, with its name in the scores and the scores."""
        return [
            (run, name, run.read_scores())
            for run in self.by_job("evaluate_bias")
            for name in [
                model for model in run.config.get("models", []) if self.input_is_subject(run, f"models.{model}")
            ][:1]
        ]


def completed_run_paths(config: ReportConfig) -> list[str]:
    """Return `run_paths` and those of `optional_paths` that contain completed runs."""
    optional = [path for path in config.optional_paths if storage.exists(storage.join(path, MANIFEST_FILE))]
    return [*config.run_paths, *optional]


def read_runs(paths: Sequence[str]) -> Runs:
    """Read the runs in the given folders.

    Raises:
        InputError: a run is missing, incomplete or duplicate, or belongs to a job that a report cannot show.
    """
    names = _unique_names(paths)
    runs = [Run(path, name, read_manifest(path)) for path, name in zip(paths, names, strict=True)]
    return Runs(sorted(runs, key=lambda run: JOBS.index(run.job)))


def _unique_names(paths: Sequence[str]) -> list[str]:
    parts = [path.rstrip("/").split("/") for path in paths]
    for number, path in enumerate(paths):
        if parts[number] in parts[:number]:
            raise InputError(f"{path}: given twice; remove one")
    for length in range(1, max(map(len, parts)) + 1):
        names = ["/".join(part[-length:]) for part in parts]
        if len(set(names)) == len(names):
            return names
    return list(paths)
