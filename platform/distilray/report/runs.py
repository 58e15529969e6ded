"""The runs that a report is made of, read from their folders."""

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
from distilray.models.model_source import MODEL_FOLDER, WEIGHTS_FILE
from distilray.runtime import storage
from distilray.runtime.outputs import verify_file
from distilray.runtime.run_folder import CONFIG_FILE, MANIFEST_FILE, read_manifest

# The jobs whose runs a report can show.
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
    "build_follows",
    "search_glue",
)
WEIGHTS = f"{MODEL_FOLDER}/{WEIGHTS_FILE}"


@dataclass(frozen=True, eq=False)
class Run:
    """A complete run of one job.

    Attributes:
        uri: its folder.
        name: of the folder, with as much of what stands above it as tells it from the others.
        manifest: what happened, of `runtime.run_folder`.
    """

    uri: str
    name: str
    manifest: Mapping[str, Any]

    @property
    def job(self) -> str:
        """Of the run."""
        return str(self.manifest["content"]["job"])

    @property
    def content_hash(self) -> str:
        """What it is known by."""
        return str(self.manifest["content_hash"])

    @property
    def config(self) -> Mapping[str, Any]:
        """The values that decided its result."""
        return dict(self.manifest["content"]["config"])

    @property
    def config_hash(self) -> str:
        """sha256 of `config`, equal to `Config.identity_hash` of its recipe."""
        return hashlib.sha256(json.dumps(self.config, sort_keys=True).encode()).hexdigest()

    @property
    def counts(self) -> Mapping[str, Any]:
        """Its numbers."""
        return dict(self.manifest["content"]["counts"])

    @property
    def inputs(self) -> Mapping[str, Mapping[str, Any]]:
        """By name: `content_hash` of a run, `bytes` and `fingerprint` of anything else."""
        return dict(self.manifest["content"]["inputs"])

    @property
    def record(self) -> Mapping[str, Any]:
        """When, where and how long."""
        return dict(self.manifest["run"])

    @property
    def weights(self) -> Mapping[str, Any]:
        """`bytes` and `sha256` of the weights that it has made; empty without any."""
        return dict(self.manifest["content"]["outputs"].get(WEIGHTS, {}))

    @cached_property
    def recipe(self) -> Mapping[str, Any]:
        """The whole recipe, folders included.

        Raises:
            InputError: `config.yaml` is missing or torn.
        """
        try:
            found = yaml.safe_load(self._read(CONFIG_FILE))
            return dict(found["config"])
        except (yaml.YAMLError, ValueError, LookupError, TypeError):
            raise InputError(f"{self.uri}/{CONFIG_FILE}: not as a job writes it; run {self.job} again") from None

    def reads(self, other: "Run") -> bool:
        """Whether the other one is among its inputs."""
        return any(each.get("content_hash") == other.content_hash for each in self.inputs.values())

    def has(self, name: str) -> bool:
        """Whether it holds a file."""
        return storage.exists(storage.join(self.uri, name))

    def text(self, name: str) -> str:
        """The text of one of its files.

        Raises:
            InputError: missing, or not UTF-8.
        """
        try:
            return self._read(name).decode("utf-8")
        except UnicodeDecodeError:
            raise InputError(f"{self.uri}/{name}: not UTF-8 text; run {self.job} again") from None

    def values(self, name: str) -> dict[str, Any]:
        """A JSON file that holds an object.

        Raises:
            InputError: missing or torn.
        """
        try:
            found = json.loads(self.text(name))
        except json.JSONDecodeError as error:
            raise InputError(f"{self.uri}/{name}: not JSON (line {error.lineno}); run {self.job} again") from None
        if not isinstance(found, dict):
            raise InputError(f"{self.uri}/{name}: not a JSON object; run {self.job} again")
        return found

    def lines(self, name: str) -> list[dict[str, Any]]:
        """The rows of a file with a JSON object in each line; none without the file.

        Raises:
            InputError: a line is none.
        """
        if not self.has(name):
            return []
        rows = []
        for number, line in enumerate(self.text(name).splitlines(), 1):
            try:
                row = json.loads(line)
            except json.JSONDecodeError:
                row = None
            if not isinstance(row, dict):
                raise InputError(f"{self.uri}/{name}: line {number} is not a JSON object; run {self.job} again")
            rows.append(row)
        return rows

    def table(self, name: str) -> list[dict[str, str]]:
        """The rows of a CSV file with a header; none without the file."""
        return list(csv.DictReader(io.StringIO(self.text(name)))) if self.has(name) else []

    def _read(self, name: str) -> bytes:
        if not self.has(name):
            raise InputError(f"{self.uri}: no {name}, which its run has written; run {self.job} again")
        uri = storage.join(self.uri, name)
        verify_file(uri)
        return storage.read_bytes(uri)


@dataclass(frozen=True)
class Runs:
    """The runs of a report, in the order of the line."""

    runs: Sequence[Run]

    def __iter__(self) -> Iterator[Run]:
        return iter(self.runs)

    def __len__(self) -> int:
        return len(self.runs)

    def of(self, *jobs: str) -> list[Run]:
        """The runs of some jobs."""
        return [run for run in self.runs if run.job in jobs]

    @property
    def subject(self) -> Run | None:
        """The run whose model the report is about: the first of `distill` in the recipe, or else of `train_teacher`."""
        return next(iter([*self.of("distill"), *self.of("train_teacher")]), None)

    def made(self, content_hash: str | None) -> Run | None:
        """The run that is known by a content hash."""
        return next((run for run in self.runs if run.content_hash == content_hash), None)

    def about_subject(self, run: Run, name: str) -> bool:
        """Whether an input of a run, by its name there, is the model that the report is about."""
        subject, entry = self.subject, run.inputs.get(name, {})
        if subject is None:
            return False
        return subject.content_hash == entry.get("content_hash") or (
            "fingerprint" in entry and subject.weights.get("sha256") == entry["fingerprint"]
        )

    def input_of(self, run: Run, *names: str) -> Run | None:
        """The run among these that another has read under one of some names."""
        return next(
            (found for name in names if (found := self.made(run.inputs.get(name, {}).get("content_hash")))), None
        )


def complete_paths(config: ReportConfig) -> list[str]:
    """The folders of a recipe that are to be read: all of `run_paths`, and of `optional_paths` the complete ones."""
    optional = [path for path in config.optional_paths if storage.exists(storage.join(path, MANIFEST_FILE))]
    return [*config.run_paths, *optional]


def read_runs(paths: Sequence[str]) -> Runs:
    """The runs in some folders.

    Raises:
        InputError: one is missing, not complete, given twice, or of a job that the report does not know.
    """
    names = _names(paths)
    runs = [Run(path, name, read_manifest(path)) for path, name in zip(paths, names, strict=True)]
    for run in runs:
        if run.job not in JOBS:
            known = ", ".join(JOBS)
            raise InputError(f"{run.uri}: a run of '{run.job}', which a report cannot show; it shows runs of {known}")
    return Runs(sorted(runs, key=lambda run: JOBS.index(run.job)))


def _names(paths: Sequence[str]) -> list[str]:
    parts = [path.rstrip("/").split("/") for path in paths]
    for number, path in enumerate(paths):
        if parts[number] in parts[:number]:
            raise InputError(f"{path}: given twice; leave one out")
    for length in range(1, max(map(len, parts)) + 1):
        names = ["/".join(part[-length:]) for part in parts]
        if len(set(names)) == len(names):
            return names
    return list(paths)
