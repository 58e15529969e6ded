"""Reading foreign data and models never runs code from them (S5)."""

import contextlib
import json
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray.data  # registers Ray's extension types, as in a job
import torch
from ray.data._internal.object_extensions.arrow import ArrowPythonObjectType

from distilray.config.corpus import ParquetSource
from distilray.config.evaluation import FillMaskDataConfig
from distilray.corpus.decontamination import read_texts
from distilray.corpus.sources import parquet_rows as parquet_rows_module
from distilray.errors import InputError
from distilray.evaluation.fill_mask.readers import data_files, read_examples
from distilray.finetuning.hub_files import read_hub_split
from distilray.finetuning.tasks import TASKS
from distilray.inference.tasks.fill_mask import FillMask
from distilray.models.masked_lm import load_masked_lm
from distilray.pretraining_data.corpus_reader import read_sentences
from distilray.pretraining_data.shards import Shard
from distilray.training.checkpoint import CheckpointStore
from tests.tiny.models import write_tiny_model

assert ray.data  # imported for what the import does


class Attack:
    """Object that creates a file when it is unpickled."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return Path.touch, (self.canary,)


@pytest.fixture
def canary(tmp_path: Path) -> Iterator[Path]:
    """File that must not be created; first shows that the attack works."""
    file = tmp_path / "canary"
    pickle.loads(pickle.dumps(Attack(file)))
    file.unlink()
    yield file
    assert not file.exists(), "code from a file was executed"


def pickled_column(canary: Path) -> pa.Array:
    """Return a column that Ray's extension type decodes as pickled Python objects."""
    storage = pa.array([pickle.dumps(Attack(canary))], pa.large_binary())
    return pa.ExtensionArray.from_storage(ArrowPythonObjectType(), storage)


def tensor_field(name: str, canary: Path) -> pa.Field:
    """Return a column whose metadata is a pickle, as in tensor columns of Ray 2.49 to 2.54, which unpickled it."""
    metadata = {
        b"ARROW:extension:name": b"ray.data.arrow_tensor_v2",
        b"ARROW:extension:metadata": pickle.dumps(Attack(canary)),
    }
    return pa.field(name, pa.large_list(pa.string()), metadata=metadata)


COLUMNS: dict[str, Callable[[str, Path], tuple[pa.Field, pa.Array]]] = {
    "pickled objects": lambda name, canary: (pa.field(name, ArrowPythonObjectType()), pickled_column(canary)),
    "a tensor with pickled metadata": lambda name, canary: (
        tensor_field(name, canary),
        pa.array([["a"]], pa.large_list(pa.string())),
    ),
}


@pytest.fixture(params=COLUMNS)
def table(request: pytest.FixtureRequest, canary: Path) -> Callable[..., pa.Table]:
    """Function that creates a table of one row with a hostile column and other, valid columns."""

    def make(name: str, **others: pa.Array) -> pa.Table:
        field, column = COLUMNS[request.param](name, canary)
        fields = [field, *(pa.field(other, values.type) for other, values in others.items())]
        return pa.Table.from_arrays([column, *others.values()], schema=pa.schema(fields))

    return make


def written(folder: Path, table: pa.Table, name: str) -> str:
    pq.write_table(table, folder / name)
    return str(folder / name)


def test_ray_itself_would_unpickle_the_objects_of_a_file(tmp_path: Path, canary: Path) -> None:
    table = pa.Table.from_arrays([pickled_column(canary)], names=["text"])
    pq.read_table(written(tmp_path, table, "a.parquet")).to_pylist()
    assert canary.exists()  # so that the tests below can fail
    canary.unlink()


def test_a_corpus_in_parquet_is_rejected(tmp_path: Path, table: Callable[..., pa.Table]) -> None:
    uri = written(tmp_path, table("text"), "a.parquet")
    with pytest.raises(InputError, match="extension type"):
        parquet_rows_module.check_file(ParquetSource(kind="parquet", path=uri, name="x"), uri)


def test_the_documents_of_a_foreign_corpus_run_are_rejected(tmp_path: Path, table: Callable[..., pa.Table]) -> None:
    uri = written(tmp_path, table("sentences"), "documents.parquet")
    with pytest.raises(InputError):
        list(read_sentences(uri, 0, 1))


def test_fill_mask_data_is_rejected(tmp_path: Path, table: Callable[..., pa.Table]) -> None:
    uri = written(tmp_path, table("masks", texts=pa.array(["<mask> is."])), "a.parquet")
    data = FillMaskDataConfig(path=uri)
    with pytest.raises(InputError, match="extension type"):
        [list(read_examples(file, data, seed=1)) for file in data_files(data)]


def test_a_split_of_glue_is_rejected(tmp_path: Path, table: Callable[..., pa.Table]) -> None:
    written(tmp_path, table("sentence", label=pa.array([1])), "train-00000-of-00001.parquet")
    with pytest.raises(InputError):
        read_hub_split(str(tmp_path), TASKS["sst2"], "train")


def test_an_evaluation_set_yields_no_text_or_is_rejected(tmp_path: Path, table: Callable[..., pa.Table]) -> None:
    uri = written(tmp_path, table("text"), "test.parquet")
    with contextlib.suppress(InputError):
        assert list(read_texts(uri)) == []


def test_a_shard_is_rejected(tmp_path: Path, table: Callable[..., pa.Table]) -> None:
    columns = table("input_ids")
    with pa.ipc.new_file(str(tmp_path / "a.arrow"), columns.schema) as writer:
        writer.write_table(columns)
    with pytest.raises(InputError):
        Shard.open(str(tmp_path / "a.arrow"), "a")


# Models


LOADERS: dict[str, Callable[[str], Any]] = {
    "service": FillMask.load,
    "training": load_masked_lm,
    "a teacher without a head": lambda folder: load_masked_lm(folder, fresh_head=True),
}


@pytest.mark.parametrize("loader", LOADERS)
@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.bin", "model.pt", "model.ckpt"])
def test_a_model_folder_with_pickled_weights_is_rejected(tmp_path: Path, canary: Path, name: str, loader: str) -> None:
    folder = Path(write_tiny_model(tmp_path / "model", "bert"))
    (folder / "model.safetensors").unlink()
    torch.save({"weights": Attack(canary)}, folder / name)
    with pytest.raises(InputError, match="safetensors"):
        LOADERS[loader](str(folder))


@pytest.mark.parametrize("loader", LOADERS)
def test_pickled_weights_with_the_name_of_safetensors_are_rejected(tmp_path: Path, canary: Path, loader: str) -> None:
    folder = Path(write_tiny_model(tmp_path / "model", "bert"))
    torch.save({"weights": Attack(canary)}, folder / "model.safetensors")
    with pytest.raises(InputError):
        LOADERS[loader](str(folder))


@pytest.mark.parametrize("loader", LOADERS)
@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json"])
def test_code_in_a_model_folder_does_not_run(
    tmp_path: Path, canary: Path, name: str, loader: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Path(write_tiny_model(tmp_path / "model", "bert"))
    (folder / "own.py").write_text(f"open({str(canary)!r}, 'w')")
    classes = {"AutoConfig": "own.Own", "AutoModelForMaskedLM": "own.Own", "AutoTokenizer": ["own.Own", "own.Own"]}
    config = json.loads((folder / name).read_text()) if (folder / name).exists() else {}
    own = {"model_type": "own", "tokenizer_class": "Own", "auto_map": classes}
    (folder / name).write_text(json.dumps({**config, **own}))
    monkeypatch.setattr("builtins.input", lambda *_: "y")  # confirm every prompt
    with contextlib.suppress(InputError):
        LOADERS[loader](str(folder))


def test_a_checkpoint_of_pickles_is_ignored(tmp_path: Path, canary: Path) -> None:
    folder = tmp_path / "step-0000003"
    folder.mkdir()
    for name in ("model.pt", "optimizer.bin", "state.pkl", "data_metadata.pkl"):
        (folder / name).write_bytes(pickle.dumps(Attack(canary)))
    assert store(tmp_path).newest() is None


def test_a_checkpoint_with_a_pickle_as_state_is_ignored(tmp_path: Path, canary: Path) -> None:
    folder = tmp_path / "step-0000003"
    folder.mkdir()
    for name in ("model.safetensors", "optimizer.safetensors", "state.json"):
        (folder / name).write_bytes(pickle.dumps(Attack(canary)))
    assert store(tmp_path).newest() is None


def store(folder: Path) -> CheckpointStore:
    return CheckpointStore(str(folder), keep=2, config_hash="x", notice=lambda line: None)
