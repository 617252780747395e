"""Every error code there is. A code is a stable identifier in journals and interfaces: it is added, never renamed.

`CODES` says for each code how the runtime reacts (its kind) and whether trying again may help.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal

__all__ = ["CODES", "Category", "Kind"]

Kind = Literal[
    "VALIDATION",
    "PLAN",
    "PROTOCOL",
    "NOT_FOUND",
    "PERMISSION",
    "TRANSIENT",
    "RATE_LIMITED",
    "TIMEOUT",
    "CANCELLED",
    "PERMANENT",
    "RESOURCE",
    "STATE",
    "STORAGE",
    "IO",
    "PROCESS",
    "SANDBOX",
    "CIRCUIT_OPEN",
    "CREDENTIAL",
    "OUTCOME_UNKNOWN",
    "CONFIG",
    "INTERNAL",
]
"""How the runtime reacts."""

Category = Literal[
    "parsing_input",
    "on_chain",
    "off_chain",
    "rpc",
    "storage",
    "context",
    "unknown",
    "process",
    "user",
    "resource",
    "scheduler",
]
"""Where a failure came from."""

_NO: Mapping[Kind, tuple[str, ...]] = {
    "VALIDATION": (
        "required",
        "invalid_format",
        "out_of_range",
        "too_long",
        "too_short",
        "invalid_value",
        "invalid_command",
        "script_not_found",
        "timeout_too_large",
        "invalid_working_dir",
        "missing_field",
        "invalid_id",
        "invalid_meta",
        "float_not_allowed",
        "secret_refused",
        "not_encodable",
        "undecodable",
        "wrong_type",
        "too_large",
        "bad_row",
        "usage",
    ),
    "PLAN": (
        "empty_plan",
        "duplicate_step",
        "missing_step_for_edge",
        "circular_dependency",
        "dangling_dependency_tag",
        "manifest_missing",
        "manifest_invalid",
        "invalid_flow",
        "flow_changed",
        "code_changed",
        "schema_changed",
        "invalid_machine",
    ),
    "PROTOCOL": ("outcome_not_allowed", "unhandled_event", "undeclared_type", "codec_mismatch", "contract_violated"),
    "NOT_FOUND": ("not_found", "run_not_found", "artifact_not_found", "action_not_found", "file_not_found"),
    "PERMISSION": ("permission_denied", "scope_denied"),
    "CANCELLED": ("cancelled",),
    "PERMANENT": ("permanent", "action_failed"),
    "STATE": (
        "state_failed",
        "context_missing_key",
        "context_serialize_failed",
        "context_deserialize_failed",
        "unsupported_migration",
        "diverged",
    ),
    "STORAGE": ("storage", "corruption", "journal_failed", "journal_locked", "fenced", "journal_full", "newer_format"),
    "IO": ("io", "missing_fact_key", "missing_fact", "io_unknown_namespace", "fact_payload_conflict", "sink_changed"),
    "PROCESS": ("command_failed", "spawn_failed"),
    "SANDBOX": ("memory_limit_exceeded", "time_limit_exceeded"),
    "CREDENTIAL": ("credential_missing", "crypto_failed"),
    "OUTCOME_UNKNOWN": ("outcome_unknown",),
    "CONFIG": ("config_invalid", "unknown_option", "source_changed", "not_repeatable"),
    "RESOURCE": ("resource_failed", "memory_exhausted"),
    "TIMEOUT": ("run_timeout", "wait_timeout", "stop_timeout"),
    "INTERNAL": ("internal", "supervisor_aborted", "crashed", "flow_failed"),
}
_YES: Mapping[Kind, tuple[str, ...]] = {
    "TRANSIENT": ("transient", "transport"),
    "RATE_LIMITED": ("rate_limited",),
    "TIMEOUT": ("attempt_timeout", "command_timeout"),
    "RESOURCE": ("pool_exhausted", "resource_unhealthy"),
    "CIRCUIT_OPEN": ("circuit_open",),
    "STORAGE": ("stale_sequence",),
}

CODES: Mapping[str, tuple[Kind, bool]] = MappingProxyType(
    {code: (kind, retryable) for table, retryable in ((_NO, False), (_YES, True)) for kind, codes in table.items() for code in codes}
)
"""Every error code there is, with its kind and whether trying again may help. Codes are never renamed."""
