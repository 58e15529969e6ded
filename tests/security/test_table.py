"""Security guarantees of SECURITY.md, with the tests that verify them."""

import ast
import re
from pathlib import Path

import pytest

# S1: the jobs API of a cluster. S2: open ports. S3: API keys. S4: bombs. S5: code in data. S6: paths. S7: secrets.
# S8: texts in logs. S9: cluster files and the image.
GUARANTEES = """
S1 tests/pipeline/test_submit.py test_the_jobs_api_is_closed_without_the_token
S2 tests/security/test_local_service.py test_the_service_listens_on_loopback_and_beyond_it_only_ray
S2 tests/security/test_local_service.py test_listeners_beyond_loopback_reject_requests_without_the_token
S2 tests/security/test_local_service.py test_a_pickle_sent_to_a_replica_runs_only_with_the_token
S3 tests/serve/test_auth.py test_any_other_request_is_401_with_the_envelope
S3 tests/serve/test_auth.py test_a_request_with_a_key_is_accepted
S3 tests/serve/test_auth.py test_every_key_is_compared_with_all_valid_ones_in_constant_time
S3 tests/security/test_local_service.py test_the_requests_were_processed
S4 tests/security/test_bombs.py test_bombs_are_rejected_with_their_reasons_quickly_and_with_little_memory
S4 tests/distilray/corpus/sources/test_bz2_ranges.py test_a_row_of_small_bombs_ends_the_range
S5 tests/security/test_foreign_data.py test_a_table_with_pickled_objects_is_rejected
S5 tests/security/test_foreign_data.py test_pickled_weights_are_rejected
S5 tests/security/test_foreign_data.py test_code_in_a_model_folder_does_not_run
S5 tests/security/test_foreign_data.py test_a_checkpoint_of_pickles_is_ignored
S5 tests/distilray/models/test_masked_lm.py test_code_in_a_model_folder_never_runs_also_if_the_user_would_consent
S5 tests/layout/test_forbidden.py test_no_module_unpickles_trusts_remote_code_or_edits_the_path
S6 tests/security/test_paths.py test_a_manifest_that_names_an_output_outside_its_folder_is_rejected
S6 tests/security/test_paths.py test_the_cache_creates_no_file_for_an_invalid_hash
S6 tests/security/test_paths.py test_a_folder_with_another_name_is_not_a_checkpoint
S6 tests/security/test_paths.py test_the_service_loads_no_model_by_its_path
S6 tests/security/test_paths.py test_no_module_unpacks_an_archive
S7 tests/security/test_local_service.py test_no_secret_of_the_environment_is_disclosed
S7 tests/security/test_secrets.py test_a_corpus_its_report_and_its_card_contain_no_secret_of_the_environment
S7 tests/security/test_secrets.py test_a_password_in_a_uri_is_rejected_and_not_repeated
S7 tests/distilray/runtime/test_tracking.py test_a_warning_contains_no_secret
S7 tests/serve/telemetry/test_request_log.py test_keys_are_hidden
S8 tests/security/test_local_service.py test_the_text_of_a_request_is_only_in_its_own_response
S8 tests/serve/telemetry/test_request_log.py test_any_message_is_one_line
S8 tests/serve/contract/test_bad_input.py test_a_text_is_not_logged
S9 tests/distilray/operations/doctor/test_cluster_file.py test_the_shipped_files_pass_once_they_are_filled_in
S9 tests/layout/test_cluster_yaml.py test_ray_starts_with_tokens_and_a_dashboard_on_loopback
S9 tests/layout/test_cluster_yaml.py test_every_machine_overrides_unsafe_defaults
S9 tests/layout/test_kubernetes.py test_the_manifests_match_their_schemas_which_reject_an_unknown_key_in_any_section
S9 tests/layout/test_kubernetes.py test_a_pod_meets_the_restricted_standard_of_kubernetes
S9 tests/layout/test_kubernetes.py test_network_policies_deny_by_default_in_both_directions
S9 tests/layout/test_dockerfile.py test_the_image_follows_the_rules
"""
ROWS = [line.split() for line in GUARANTEES.strip().splitlines()]


def test_every_guarantee_has_tests(root: Path) -> None:
    guarantees = re.findall(r"^\| (S\d) \|", (root / "SECURITY.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert list(dict.fromkeys(guarantee for guarantee, *_ in ROWS)) == guarantees
    assert len(guarantees) == 9


@pytest.mark.parametrize(("file", "name"), [row[1:] for row in ROWS])
def test_the_tests_in_the_table_exist(root: Path, file: str, name: str) -> None:
    module = ast.parse((root / file).read_text(encoding="utf-8"))
    functions = (node for node in module.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))
    assert name in [function.name for function in functions]
