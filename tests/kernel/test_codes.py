"""Error codes stand in journals for ever: this list grows, and nothing in it changes."""

from typing import get_args

import pytest

from obzen_runtime.kernel import CODES, Category, Kind

PINNED = {
    ("CANCELLED", False): "cancelled",
    ("CIRCUIT_OPEN", True): "circuit_open",
    ("CONFIG", False): "config_invalid not_repeatable source_changed unknown_option",
    ("CREDENTIAL", False): "credential_missing crypto_failed",
    ("INTERNAL", False): "crashed flow_failed internal supervisor_aborted",
    ("IO", False): "fact_payload_conflict io io_unknown_namespace missing_fact missing_fact_key sink_changed",
    ("NOT_FOUND", False): "action_not_found artifact_not_found file_not_found not_found run_not_found",
    ("OUTCOME_UNKNOWN", False): "outcome_unknown",
    ("PERMANENT", False): "action_failed permanent",
    ("PERMISSION", False): "permission_denied scope_denied",
    (
        "PLAN",
        False,
    ): """
        circular_dependency code_changed dangling_dependency_tag duplicate_step empty_plan flow_changed invalid_flow invalid_machine
        manifest_invalid manifest_missing missing_step_for_edge schema_changed
    """,
    ("PROCESS", False): "command_failed spawn_failed",
    ("PROTOCOL", False): "codec_mismatch contract_violated outcome_not_allowed undeclared_type unhandled_event",
    ("RATE_LIMITED", True): "rate_limited",
    ("RESOURCE", False): "memory_exhausted resource_failed",
    ("RESOURCE", True): "pool_exhausted resource_unhealthy",
    ("SANDBOX", False): "memory_limit_exceeded time_limit_exceeded",
    ("STATE", False): "context_deserialize_failed context_missing_key context_serialize_failed diverged state_failed unsupported_migration",
    ("STORAGE", False): "corruption fenced journal_failed journal_full journal_locked newer_format storage",
    ("STORAGE", True): "stale_sequence",
    ("TIMEOUT", False): "run_timeout stop_timeout wait_timeout",
    ("TIMEOUT", True): "attempt_timeout command_timeout",
    ("TRANSIENT", True): "transient transport",
    (
        "VALIDATION",
        False,
    ): """
        bad_row float_not_allowed invalid_command invalid_format invalid_id invalid_meta invalid_value
        invalid_working_dir missing_field not_encodable out_of_range required script_not_found secret_refused
        timeout_too_large too_large too_long too_short undecodable usage wrong_type
    """,
}
MFM = {"parsing_input", "on_chain", "off_chain", "rpc", "storage", "context", "unknown"}


def test_M_008_no_code_was_renamed_removed_or_given_another_meaning():
    pinned = {code: (kind, retryable) for (kind, retryable), codes in PINNED.items() for code in codes.split()}
    missing = pinned.keys() - CODES.keys()
    assert not missing, f"codes in old journals that nobody can read any more: {sorted(missing)}"
    assert {code: CODES[code] for code in pinned} == pinned


def test_M_008_every_code_is_pinned():
    pinned = {code for codes in PINNED.values() for code in codes.split()}
    assert CODES.keys() - pinned == set(), "a new code: add it to PINNED in this file"


def test_every_kind_has_a_code_and_every_code_a_known_kind():
    assert {kind for kind, _ in CODES.values()} == set(get_args(Kind))


def test_codes_are_snake_case_segments():
    for code in CODES:
        assert code.isidentifier()
        assert code == code.lower()


def test_M_025_the_seven_categories_are_kept_verbatim():
    assert set(get_args(Category)) >= MFM


def test_the_table_cannot_be_changed_by_a_caller():
    with pytest.raises(TypeError):
        CODES["mine"] = ("INTERNAL", False)
