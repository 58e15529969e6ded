"""Values and inputs that jobs reject, in one line with exit code 2 and without writing anything."""

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.jobs.recipe_inputs import CHECKOUT
from tests.jobs.recipe_plans import run_recipe
from tests.tiny.corpus import write_corpus

pytestmark = pytest.mark.usefixtures("one_thread")

# By shipped recipe: overrides, and a part of the message.
REJECTED = {
    "build_corpus/quickstart": [
        ("chunk_md=3", "did you mean 'chunk_mb'"),
        ("filters.min_letter_fraction=2", "filters.min_letter_fraction"),
        ("filters.language=xx", "filters.language"),
        ("file_mb=0", "file_mb"),
        ("sources=[]", "sources"),
        ("sources=[{kind: tape, path: x}]", "sources.0"),
        ("sources=[{kind: parquet, path: x, name: y, text: z}]", "unknown key"),
        ("ray.num_cpus=0", "ray.num_cpus"),
        ("decontamination.paths=[]", "decontamination.paths"),
        ("decontamination.paths=[/no/such/glue]", "/no/such/glue"),
        ("tokenizer_path=README.md", "README.md: not a readable tokenizer.json"),
    ],
    "train_tokenizer/quickstart": [
        ("vocabulary_size=65537", "vocabulary_size"),
        ("vocabulary_size=100", "vocabulary_size"),
        ("vocab_size=300", "did you mean 'vocabulary_size'"),
        ("sample_fraction=0", "sample_fraction"),
        ("sample_fraction=1e-9", "none of the 8,000 documents is in the sample"),
        ("teacher_dir=somewhere", "set either corpus_dir, to train a tokenizer, or teacher_dir"),
        ("corpus_dir=null teacher_dir=/tmp", "/tmp/tokenizer.json"),
    ],
    "encode_corpus/quickstart": [
        ("masking.keep_share=0.2", "must be 1, not 1.1"),
        ("masking.mlm_probability=0", "masking.mlm_probability"),
        ("max_seq_length=8", "max_seq_length"),
        ("max_seq_len=64", "did you mean 'max_seq_length'"),
        ("dupe_factor=0", "dupe_factor"),
        ("heldout_fraction=1", "heldout_fraction"),
        ("seed=-1", "seed"),
        ("mode=paper single_sentence_documents=drop", "single_sentence_documents: mode 'paper' has no pairs"),
        ("corpus_dir={inputs}/shards", "{inputs}/shards: written by encode_corpus, not by build_corpus"),
    ],
    "distill/quickstart": [
        ("student.layers=[0,12]", "student.layers: the teacher has layers 0 to 11, not 12"),
        ("student.layers=[]", "student.layers"),
        ("student={initialization: random, fold_segment_a: true}", "fold_segment_a: a randomly initialized student"),
        ("losses={alpha_ce: 0, alpha_mlm: 0, alpha_cos: 0}", "nothing would be learned"),
        ("losses.temperature=0", "losses.temperature"),
        ("losses.alfa_ce=1", "did you mean 'alpha_ce'"),
        ("dropout=1", "dropout"),
        ("optimizer.betas=[0.9, 1]", "optimizer.betas.1"),
        ("scaling.num_workers=0", "scaling.num_workers"),
        ("batch_size=9 micro_batch_size=1", "batch_size"),  # no example for the second worker in the last micro-batch
        ("batch_size=1 micro_batch_size=32", "batch_size"),
        ("micro_batch_tokens=16", "micro_batch_tokens 16: the longest example takes"),
    ],
    "evaluate_bias/card": [
        ("models={}", "models"),
        ("models={bad name: x}", "models"),
        ("models={teacher: x, teacher_config: x}", "teacher_config"),
        ("stereoset_scoring=mine", "stereoset_scoring"),
    ],
    "evaluate_bias/quickstart": [("probes=false", "nothing to evaluate")],
    "evaluate_fill_mask/rcds": [
        ("data.max_length=513", "data.max_length: 513 tokens"),
        ("causal.model_dir=gpt2", "gpt2: no such folder; causal_perplexity_of_predictions is"),
        ("data.text_column=text", "no 'text' among 'id', 'texts', 'masks'"),
        ("data.path=a teacher_dir=b student_dir=c causal.model_dir=d", " a: no such.* b: no such.* c: no such.* d: no"),
    ],
    "measure_efficiency/quickstart": [
        ("glue_dir=null", "exactly one of glue_dir and text_path"),
        ("text_path=x", "exactly one of glue_dir and text_path"),
        ("models=[{name: a, model_dir: x}, {name: a, model_dir: y}]", "models: duplicate name"),
        ("models=[{name: a, model_dir: none}]", "none: no such folder"),
        ("glue_dir=null text_path=/no/text", "/no/text"),
    ],
    "export_model/quickstart": [
        ("shards_dir=null variants=[bf16]", "bf16 must be evaluated on a text"),
        ("text_path=x", "keep one of them"),
        ("shards_dir=null text_path=/no/text", "/no/text"),
        ("variants=[bf16, bf16]", "contains a duplicate"),
        ("max_logit_difference=1e-3", "max_logit_difference"),
        ("push.repo_id=no-owner", "push.repo_id"),
        ("push.repo_id=me/model", "HF_HUB_OFFLINE is set"),
    ],
    "evaluate_glue/quickstart": [
        ("tasks=[sst2] fine_tuning.metric=acuracy", "did you mean 'accuracy'"),
        ("glue_dir={inputs}/follows", "none of cola, sst2, rte"),
        ("start_from_mnli=true", "mnli"),
        ("teacher_run_dir={inputs}/shards", "{inputs}/shards: written by encode_corpus, not by evaluate_glue"),
        ("fine_tuning.seeds=[1, 1]", "contains a duplicate"),
        ("tasks=[rte, wnli] train=false", "train: false scores only the task that model_dir was fine-tuned on"),
        ("tasks=[mnli] train=false start_from_mnli=true", "start_from_mnli: has no effect with train=false"),
        ("tasks=[rte] train=false", "ForMaskedLM has no task head"),
        ("submission.write=true", "fill_missing"),
    ],
    "search_glue/demo": [
        ("space.learning_rate={}", "space.learning_rate: no value set; set exactly one of choice"),
        ("space.learning_rte={choice: [1]}", "space.learning_rte: no such setting of a fine-tuning run; did you mean"),
        ("space.epochs={choice: [0]}", "space.epochs: 0 is invalid"),
        ("space.batch_size={uniform: [8, 16]}", "space.batch_size: uniform gives fractions"),
        ("model_dir={inputs}/tokenizer space.max_length={choice: [64]}", "max_length: 64 tokens for follows"),
        ("fine_tuning.metric=acuracy", "metric: 'acuracy' is not a metric of follows; did you mean 'accuracy'?"),
        ("method=genetic", "method"),
        ("trial.cpus=64", "no room for 1 trial with 64 CPU, .* of memory: the local cluster has 2 CPU"),
        ("trial.memory_gb=100000", "1 trial with 1 CPU, 93132.3 GiB of memory"),
        ("asha.grace_evaluations=9", "grace_evaluations: 9, but the longest trial of follows has only 4 evaluations"),
        ("fine_tuning.seeds=[56]", "seed: 56 is among the seeds of follows"),
        ("glue_dir=none", "none is not a folder"),
        ("tasks=[rte]", "contains none of rte"),
    ],
    "plan/card": [
        ("cluster.machine=toaster", "cluster.machine: no machine 'toaster'"),
        ("cluster.market=spot", "set cluster.price_per_machine_hour"),
        ("stages.distill.path=none.yaml", "none.yaml"),
        ("stages.distill.overrides=[learning=1]", "learning"),
        ("slowdowns.preemptions_per_machine_hour=100000000", "would not end"),
        ("simulation.workers=[0]", "simulation.workers"),
        ("estimate.measured_run_dir=nowhere", "nowhere"),
    ],
    "write_report/quickstart": [
        ("run_paths=[{inputs}/report-runs/student, {inputs}/report-runs/student]", "given twice"),
    ],
}
ROWS = [(recipe, *row) for recipe, rows in REJECTED.items() for row in rows]


def run_shipped(recipe: str, inputs: Path, run_dir: Path, overrides: str) -> int:
    """Run a job with a shipped recipe and overrides, which are separated by spaces."""
    arguments = [each.replace("{inputs}", str(inputs)) for each in re.split(r" (?=[\w.]+=)", overrides)]
    return run_recipe(CHECKOUT / f"jobs/recipes/{recipe}.yaml", inputs, run_dir, *arguments)


@pytest.mark.parametrize(("recipe", "overrides", "message"), ROWS, ids=[f"{row[0]} {row[1]}" for row in ROWS])
def test_a_rejected_value_is_reported_in_one_line_and_nothing_is_written(
    recipe: str, overrides: str, message: str, inputs: Path, tmp_path: Path, error_line: Callable[[int], str]
) -> None:
    line = error_line(run_shipped(recipe, inputs, tmp_path / "run", overrides))
    assert re.search(re.escape(message.replace("{inputs}", str(inputs))).replace(r"\.\*", ".*"), line), line
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("command", "file", "before", "after", "message"),
    [
        ("encode_corpus tokenizer_dir=", "tokenizer/tokenizer.json", b'"model"', b'"other"', "{file}: not a tokenizer"),
        (
            "train_tokenizer corpus_dir=null teacher_dir=",
            "tokenizer/tokenizer.json",
            b"[MASK]",
            b"[HIDE]",
            "the tokenizer has no [MASK]",
        ),
        ("train_teacher encoder_dir=", "teacher/model.safetensors", b"F32", b"F3", "{file}"),
        ("evaluate_glue glue_dir=", "glue/RTE/dev.tsv", b"\tsentence1", b"\tsentence", "{file}"),
        ("evaluate_glue glue_dir=", "glue/RTE/dev.tsv", b"\tnot_entailment", b"\tperhaps", "{file}:3"),
        ("evaluate_glue glue_dir=", "glue/RTE/dev.tsv", b"\tsecond 4", b"", "{file}:6"),
    ],
)
def test_a_damaged_input_is_reported_in_one_line(inputs, tmp_path, error_line, command, file, before, after, message):
    (job, overrides), folder = command.split(" ", 1), file.partition("/")[0]
    shutil.copytree(inputs / folder, tmp_path / folder)
    data = (tmp_path / file).read_bytes()
    assert before in data
    (tmp_path / file).write_bytes(data.replace(before, after))
    line = error_line(run_shipped(f"{job}/quickstart", inputs, tmp_path / "run", f"{overrides}{tmp_path}/{folder}"))
    assert message.format(file=tmp_path / file) in line
    assert not (tmp_path / "run").exists()


def test_a_corpus_of_one_document_cannot_be_encoded(
    inputs: Path, tmp_path: Path, error_line: Callable[[int], str]
) -> None:
    write_corpus(tmp_path / "single", 1, files=1)
    overrides = f"corpus_dir={tmp_path}/single heldout_fraction=0"
    line = error_line(run_shipped("encode_corpus/quickstart", inputs, tmp_path / "run", overrides))
    assert f"{tmp_path}/single: 1 document(s) in split 'train'" in line
    assert not (tmp_path / "run").exists()
