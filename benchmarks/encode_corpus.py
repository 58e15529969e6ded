"""How fast documents become masked shards, against raw tokenisation and against BERT's builder in plain Python.

PYTHONPATH=platform:. python benchmarks/encode_corpus.py CORPUS_DIR [--copies N] [--dupe-factor 10]

Repeats the documents of a corpus (a run folder of jobs.build_corpus, such as the quickstart's). What stands once in it
between two spaces has its letters mixed anew in each copy, so that every copy brings as many new words as the first; a
real corpus brings fewer and fewer. Measured in one run, in tokens of documents for each second of the clock:
- jobs.encode_corpus as a command, (a) with the start and the end of Python and Ray, and (b) less the seconds that the
  same command takes for eight documents;
- `encode_batch_fast` of the tokenizers library over the same sentences in memory, with one process for each CPU;
- the builder in plain Python in one process, over a part of the documents.
"""

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.bert_pretraining_data import examples, write_examples
from distilray.config.corpus import BuildCorpusConfig
from distilray.config.sample import resolve_sample
from distilray.pretraining_data.corpus_reader import Corpus
from distilray.pretraining_data.tokenizer import build_tokenizer, read_tokenizer
from distilray.runtime.run_folder import RunFolder

ENCODER = "sample:encoder"
PLAIN_DOCUMENTS = 12
BATCH = 1024


def changed(documents: list[list[str]], copy: int) -> list[list[str]]:
    """The documents with the letters of their rarest words mixed."""
    rng = random.Random(copy)
    counts = Counter(word for document in documents for sentence in document for word in sentence.split(" "))
    new = {word: "".join(rng.sample(word, len(word))) for word, count in counts.items() if count == 1}
    return [
        [" ".join(new.get(word, word) for word in sentence.split(" ")) for sentence in document]
        for document in documents
    ]


def write_corpus(folder: Path, table: pa.Table, words: int, copies: int) -> Path:
    """A run folder of `build_corpus` with so many changed copies of some documents, a file each."""
    config = BuildCorpusConfig.model_validate({"run_dir": str(folder), "sources": [{"path": "-"}]})
    run = RunFolder("build_corpus", config, {})
    run.begin()
    (folder / "documents").mkdir()
    outputs = {}
    for copy in range(copies):
        name = f"documents/documents-{copy:05d}.parquet"
        sentences = pa.array(changed(table["sentences"].to_pylist(), copy), table.schema.field("sentences").type)
        place = table.schema.get_field_index("sentences")
        pq.write_table(
            table.set_column(place, table.schema.field(place), sentences),
            folder / name,
            row_group_size=50,
            compression="zstd",
        )
        outputs[name] = {"rows": len(table), **run.describe_outputs([name])[name]}
    run.finish({"documents": len(table) * copies, "words": words * copies}, outputs, "a corpus")
    return folder


def encode(folder: Path, corpus_dir: Path, cpus: int, length: int, dupe_factor: int) -> tuple[float, int]:
    """Seconds of the command, and tokens of the documents."""
    values = {
        "run_dir": folder,
        "corpus_dir": corpus_dir,
        "max_seq_length": length,
        "dupe_factor": dupe_factor,
        "chunk_mb": 1,
        "heldout_fraction": 0,
        "ray.num_cpus": cpus,
    }
    recipe = ["--recipe", "jobs/recipes/encode_corpus/quickstart.yaml"]
    command = [
        sys.executable,
        "-m",
        "jobs.encode_corpus",
        *recipe,
        *(f"{key}={value}" for key, value in values.items()),
    ]
    begun = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    seconds = time.perf_counter() - begun
    return seconds, json.loads((folder / "manifest.json").read_text())["content"]["counts"]["train"]["document_tokens"]


def raw(sentences: list[str]) -> int:
    """Tokens of the sentences."""
    tokenizer = build_tokenizer(read_tokenizer(resolve_sample(ENCODER)))
    return sum(
        sum(map(len, tokenizer.encode_batch_fast(sentences[at : at + BATCH], add_special_tokens=False)))
        for at in range(0, len(sentences), BATCH)
    )


def raw_rate(sentences: list[str], cpus: int, copies: int) -> float:
    """Tokens per second of `encode_batch_fast`, a process for each CPU, started before."""
    with ProcessPoolExecutor(cpus) as pool:
        list(pool.map(raw, [sentences[:BATCH]] * cpus))
        begun = time.perf_counter()
        tokens = sum(pool.map(raw, [sentences] * copies))
        return tokens / (time.perf_counter() - begun)


def plain_rate(documents: list[list[str]], length: int, copies: int, folder: Path) -> float:
    """Tokens of documents per second of the builder in plain Python."""
    vocabulary = build_tokenizer(read_tokenizer(resolve_sample(ENCODER))).get_vocab()
    tokens = raw([sentence for document in documents for sentence in document])
    begun = time.perf_counter()
    with (folder / "plain.jsonl").open("w") as file:
        found = examples(documents, vocabulary, max_seq_length=length, dupe_factor=copies)
        assert write_examples(found, vocabulary, file)
    return tokens / (time.perf_counter() - begun)


def lines(given: argparse.Namespace, folder: Path) -> Iterator[str]:
    """A line for each length and number of CPUs."""
    corpus = Corpus.open(given.corpus_dir)
    table = pa.concat_tables([pq.read_table(f"{given.corpus_dir}/{name}") for name in corpus.files])
    whole = write_corpus(folder / "whole", table, corpus.words, given.copies)
    tiny = write_corpus(folder / "tiny", table.slice(0, 8), corpus.words // 10, 1)
    documents = changed(table["sentences"].to_pylist(), given.copies)
    sentences = [sentence for document in documents for sentence in document]
    for length in given.max_seq_length:
        plain = plain_rate(documents[:PLAIN_DOCUMENTS], length, given.dupe_factor, folder)
        for cpus in given.cpus:
            fixed, _ = encode(folder / f"tiny-{length}-{cpus}", tiny, cpus, length, given.dupe_factor)
            before = raw_rate(sentences, cpus, max(2, given.copies // 4))
            seconds, tokens = encode(folder / f"whole-{length}-{cpus}", whole, cpus, length, given.dupe_factor)
            library = (before + raw_rate(sentences, cpus, max(2, given.copies // 4))) / 2
            a, b = tokens / seconds, tokens / (seconds - fixed)
            yield (
                f"{length} tokens, {cpus} CPU: {tokens / 1e6:.1f} M tokens in {seconds:.1f} s ({fixed:.1f} s fixed); "
                f"raw {library / 1e3:,.0f} k/s: (a) {a / library:.2f}x, (b) {b / library:.2f}x; "
                f"plain Python {plain / 1e3:,.1f} k/s: (a) {a / plain:.1f}x, (b) {b / plain:.1f}x"
            )


def main() -> None:
    """Prints a line for each length and number of CPUs."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("corpus_dir")
    parser.add_argument("--copies", type=int, default=40)
    parser.add_argument("--dupe-factor", type=int, default=1, help="BERT builds 10 copies")
    parser.add_argument("--cpus", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--max-seq-length", type=int, nargs="+", default=[128, 512])
    given = parser.parse_args()
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    with tempfile.TemporaryDirectory() as folder:
        for line in lines(given, Path(folder)):
            print(line, flush=True)


if __name__ == "__main__":
    main()
