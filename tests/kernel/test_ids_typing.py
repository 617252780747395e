"""Ids of different kinds cannot be confused: the type checker finds the swapped argument."""

import pytest
from mypy import api

from tests.house.checks import ROOT

KINDS = {"OpId": "OP_ID", "OpPath": "OP_PATH", "StateId": "STATE_ID", "RunId": "RUN_ID", "StageName": "STAGE_NAME"}
KINDS |= {"ArtifactId": "ARTIFACT_ID", "FactKey": "FACT_KEY", "ContextKey": "CONTEXT_KEY"}


@pytest.mark.timeout(180)  # the first run fills the checker's cache
def test_M_008_each_kind_is_a_type_of_its_own_and_all_are_text(monkeypatch):
    monkeypatch.chdir(ROOT)
    lines, wrong = [f"from obzen_runtime.kernel import {', '.join([*KINDS, *KINDS.values()])}"], set()
    for kind in KINDS:
        lines += [f"def take_{kind}(value: {kind}) -> str: return value"]
    for kind in KINDS:
        for other, rule in KINDS.items():
            lines += [f'take_{kind}({rule}.new("x"))']
            if kind != other:
                wrong.add(len(lines))
        lines += [f'take_{kind}("x")']
        wrong.add(len(lines))
    told, errors, _ = api.run(["--config-file=", "--strict", "--no-pretty", "--no-error-summary", "-c", "\n".join(lines)])
    assert errors == ""
    assert {int(line.split(":")[1]) for line in told.splitlines() if ": error:" in line} == wrong, told
