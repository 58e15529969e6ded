"""What the project promises about security, and the tests that hold it.

S1: the jobs API of a cluster answers 401 without the token and 403 with a wrong one.
    tests/pipeline/test_submit.py
        test_the_jobs_api_is_closed_without_the_token

S2: the local service opens its own port on loopback alone; what Ray opens answers nobody without the token.
    tests/security/test_local_service.py
        test_the_service_listens_on_loopback
        test_beyond_loopback_only_processes_of_ray_listen_and_no_dashboard
        test_what_listens_beyond_loopback_answers_nobody_without_the_token
        test_a_pickle_that_is_sent_to_a_replica_runs_for_the_holder_of_the_token_alone

S3: with API keys: 401 without one and with a wrong one, an answer with a right one, compared in constant time.
    tests/serve/test_auth.py
        test_any_other_request_is_401_with_the_envelope
        test_a_request_with_a_key_is_let_in
        test_a_right_key_is_compared_with_as_many_as_a_wrong_one
    tests/serve/test_serving.py
        test_the_real_application_answers_who_has_a_key_in_both_forms_and_leaves_its_port_free

S4: bombs of XML entities, nesting and compression, and entities of other files, are refused soon, in little memory.
    tests/security/test_bombs.py
        test_a_bomb_is_refused_with_its_reason_and_what_stands_around_it_is_read
        test_all_of_them_take_less_than_200_mb_of_memory
    tests/distilray/corpus/sources/test_bz2_ranges.py
        test_a_row_of_small_bombs_ends_the_range

S5: no code of a data file, a model folder or a checkpoint runs.
    tests/security/test_foreign_data.py
        test_a_corpus_in_parquet_is_refused
        test_the_documents_of_a_foreign_corpus_run_are_refused
        test_a_shard_is_refused
        test_a_model_folder_with_pickled_weights_is_refused
        test_code_that_a_model_folder_brings_does_not_run
        test_a_checkpoint_of_pickles_is_none
    tests/distilray/models/test_masked_lm.py
        test_code_in_a_model_folder_never_runs_and_nobody_is_asked_whether_it_may
    tests/layout/test_forbidden.py
        test_no_module_unpickles_trusts_remote_code_or_edits_the_path

S6: no name leads out of its folder: outputs of manifests, hashes, checkpoints, models; no archive is unpacked.
    tests/security/test_paths.py
        test_a_manifest_that_names_an_output_outside_its_folder_is_refused
        test_the_cache_makes_no_file_from_a_hash_that_is_none
        test_a_folder_that_is_named_otherwise_is_no_checkpoint
        test_a_request_that_names_a_path_for_a_model_loads_nothing
        test_no_module_unpacks_an_archive

S7: secrets of the environment stand in no log, file, report, answer or command line; a password in a URI is refused.
    tests/security/test_local_service.py
        test_no_secret_of_the_environment_is_told
    tests/security/test_secrets.py
        test_a_corpus_its_report_and_its_card_hold_no_secret_of_the_environment
        test_a_password_in_a_uri_is_refused_and_not_repeated
    tests/distilray/runtime/test_tracking.py
        test_a_warning_holds_no_secret
    tests/serve/telemetry/test_request_log.py
        test_keys_are_hidden

S8: a request is one JSON line in the log, whatever its text holds, and without the text.
    tests/security/test_local_service.py
        test_the_text_of_no_request_is_told_but_in_its_own_answer
    tests/serve/telemetry/test_request_log.py
        test_any_message_is_one_line
    tests/serve/contract/test_bad_texts.py
        test_a_text_is_in_no_line_of_the_log

S9: the files of clusters fit their schemas and leave nothing open; the image runs without root.
    tests/layout/test_cluster_yaml.py
        test_ray_accepts_the_file
        test_the_dashboard_answers_on_loopback_only
        test_every_start_of_ray_asks_for_tokens
        test_every_machine_demands_a_session_for_its_metadata
    tests/layout/test_kubernetes.py
        test_a_manifest_fits_its_schema
        test_a_pod_meets_the_restricted_standard_of_kubernetes
        test_what_is_not_admitted_is_denied_in_both_directions
    tests/layout/test_dockerfile.py
        test_the_image_keeps_the_rules
"""

import ast
import re
from pathlib import Path

import pytest


def promises(table: str) -> dict[str, list[tuple[str, str]]]:
    """Files and names of tests by the id of what they hold."""
    found: dict[str, list[tuple[str, str]]] = {}
    key = file = ""
    for line in table.splitlines():
        if head := re.match(r"(S\d): ", line):
            key = head[1]
            found[key] = []
        elif line.startswith("    tests/"):
            file = line.strip()
        elif line.startswith("        test_"):
            found[key].append((file, line.strip()))
    return found


PROMISES = promises(__doc__ or "")
NAMED = [pytest.param(*named, id=f"{key} {named[1]}") for key, tests in PROMISES.items() for named in tests]


def test_every_promise_has_its_tests() -> None:
    assert list(PROMISES) == [f"S{number}" for number in range(1, 10)]
    assert all(PROMISES.values())


@pytest.mark.parametrize(("file", "name"), NAMED)
def test_a_test_that_the_table_names_is_there(root: Path, file: str, name: str) -> None:
    module = ast.parse((root / file).read_text(encoding="utf-8"))
    assert name in {node.name for node in module.body if isinstance(node, ast.FunctionDef)}
