"""Security guarantees of the project, with the tests that verify them.

S1: the jobs API of a cluster answers 401 without the token and 403 with a wrong one.
    tests/pipeline/test_submit.py
        test_the_jobs_api_is_closed_without_the_token

S2: the local service listens only on loopback; Ray's own ports reject requests without the token.
    tests/security/test_local_service.py
        test_the_service_listens_on_loopback
        test_beyond_loopback_only_ray_listens_and_no_dashboard
        test_listeners_beyond_loopback_reject_requests_without_the_token
        test_a_pickle_sent_to_a_replica_runs_only_with_the_token

S3: with API keys, requests without a valid key get 401; keys are compared in constant time.
    tests/serve/test_auth.py
        test_any_other_request_is_401_with_the_envelope
        test_a_request_with_a_key_is_let_in
        test_a_right_key_is_compared_with_as_many_as_a_wrong_one
    tests/serve/test_serving.py
        test_the_application_serves_both_formats_with_a_key_and_frees_its_port

S4: XML and compression bombs and external entities are rejected quickly and with little memory.
    tests/security/test_bombs.py
        test_a_bomb_is_rejected_with_its_reason_and_the_content_around_it_is_read
        test_reading_all_bombs_takes_less_than_200_mb_of_memory
    tests/distilray/corpus/sources/test_bz2_ranges.py
        test_a_row_of_small_bombs_ends_the_range

S5: no code in a data file, a model folder or a checkpoint is executed.
    tests/security/test_foreign_data.py
        test_a_corpus_in_parquet_is_rejected
        test_the_documents_of_a_foreign_corpus_run_are_rejected
        test_a_shard_is_rejected
        test_a_model_folder_with_pickled_weights_is_rejected
        test_code_in_a_model_folder_does_not_run
        test_a_checkpoint_of_pickles_is_ignored
    tests/distilray/models/test_masked_lm.py
        test_code_in_a_model_folder_never_runs_and_nobody_is_asked_whether_it_may
    tests/layout/test_forbidden.py
        test_no_module_unpickles_trusts_remote_code_or_edits_the_path

S6: no name leads outside its folder (outputs of manifests, hashes, checkpoints, models); no archive is unpacked.
    tests/security/test_paths.py
        test_a_manifest_that_names_an_output_outside_its_folder_is_refused
        test_the_cache_creates_no_file_for_an_invalid_hash
        test_a_folder_with_another_name_is_not_a_checkpoint
        test_a_request_with_a_path_as_model_name_loads_nothing
        test_no_module_unpacks_an_archive

S7: no log, file, report, response or command line contains secrets; a password in a URI is rejected.
    tests/security/test_local_service.py
        test_no_secret_of_the_environment_is_disclosed
    tests/security/test_secrets.py
        test_a_corpus_its_report_and_its_card_contain_no_secret_of_the_environment
        test_a_password_in_a_uri_is_rejected_and_not_repeated
    tests/distilray/runtime/test_tracking.py
        test_a_warning_holds_no_secret
    tests/serve/telemetry/test_request_log.py
        test_keys_are_hidden

S8: a request is logged as one line of JSON, without its text.
    tests/security/test_local_service.py
        test_the_text_of_a_request_is_only_in_its_own_response
    tests/serve/telemetry/test_request_log.py
        test_any_message_is_one_line
    tests/serve/contract/test_bad_texts.py
        test_a_text_is_in_no_line_of_the_log

S9: cluster files are valid and expose no unprotected port; the image runs without root.
    tests/layout/test_cluster_yaml.py
        test_ray_accepts_the_file
        test_the_dashboard_listens_only_on_loopback
        test_every_ray_start_requires_tokens
        test_every_machine_requires_sessions_for_its_metadata_service
    tests/layout/test_kubernetes.py
        test_a_manifest_matches_its_schema
        test_a_pod_meets_the_restricted_standard_of_kubernetes
        test_network_policies_deny_by_default_in_both_directions
    tests/layout/test_dockerfile.py
        test_the_image_follows_the_rules
"""

import ast
import re
from pathlib import Path

import pytest


def parse_table(table: str) -> dict[str, list[tuple[str, str]]]:
    """Return files and names of tests by guarantee."""
    tests: dict[str, list[tuple[str, str]]] = {}
    key = file = ""
    for line in table.splitlines():
        if head := re.match(r"(S\d): ", line):
            key = head[1]
            tests[key] = []
        elif line.startswith("    tests/"):
            file = line.strip()
        elif line.startswith("        test_"):
            tests[key].append((file, line.strip()))
    return tests


GUARANTEES = parse_table(__doc__ or "")
TESTS = [pytest.param(*test, id=f"{key} {test[1]}") for key, tests in GUARANTEES.items() for test in tests]


def test_every_guarantee_has_tests() -> None:
    assert list(GUARANTEES) == [f"S{number}" for number in range(1, 10)]
    assert all(GUARANTEES.values())


@pytest.mark.parametrize(("file", "name"), TESTS)
def test_the_tests_in_the_table_exist(root: Path, file: str, name: str) -> None:
    module = ast.parse((root / file).read_text(encoding="utf-8"))
    assert name in {node.name for node in module.body if isinstance(node, ast.FunctionDef)}
