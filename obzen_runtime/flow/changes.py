"""Whether a run may go on with the flow at hand: what changed since it was started, stage by stage.

A stage without state may change: what it wrote stays, what comes is made by the new code, and the run says so. State
that the old code folded would be folded on by the new one, so that needs a person's word.
"""

from collections.abc import Mapping, Sequence, Set
from typing import Any

from obzen_runtime.events import RunStarted, SchemaChange, StageInfo
from obzen_runtime.flow.builder import Flow
from obzen_runtime.journal import Manifest
from obzen_runtime.kernel import FlowInvalid, versions
from obzen_runtime.stages import DEAD_LETTERS, MISSING, Codec, Node, code_fingerprint

__all__ = ["judge_changes", "judge_graph", "judge_schemas", "schemas_written"]

_STATEFUL = frozenset({"fold", "stateful", "top", "join"})


def judge_changes(
    flow: Flow, manifest: Manifest, *, earlier: Mapping[str, str], parameters: Mapping[str, Any], allowed: bool
) -> dict[str, str]:
    """The new fingerprints of stages whose code has changed since the run was started, or since `earlier` said so.

    `parameters` is what the manifest of this flow would say. Raises `FlowInvalid`: `flow_changed` when stages came or
    went or, unless `allowed`, were given other parameters; `code_changed` when the code of a stage with state is
    another and that is not `allowed`.
    """
    _same_stages(manifest.run_id, manifest.flow, flow.name, manifest.code.keys(), flow.topology.nodes.keys())
    nodes = flow.topology.nodes
    if not allowed:
        _same_parameters(manifest, parameters, nodes)
    before = {**manifest.code, **earlier}
    changed = {name: now for name, node in nodes.items() if (now := code_fingerprint(node)) != before[name]}
    stateful = [name for name in changed if nodes[name].kind in _STATEFUL]
    if stateful and not allowed:
        raise FlowInvalid(
            f"the code of {', '.join(stateful)} has changed since run {manifest.run_id} was started{_other_python(manifest)}; "
            f"{'its' if len(stateful) == 1 else 'their'} state was made by the old code",
            code="code_changed",
            remedy="Restore the code, start a new run, or go on all the same with --allow-code-change (allow_code_change=True).",
        )
    return changed


_AS_IT_WAS = "Resume with the flow as it was, or start a new run."


def judge_graph(run: str, flow: str, started: RunStarted, infos: Sequence[StageInfo], *, remedy: str = _AS_IT_WAS) -> None:
    """Raise `FlowInvalid` (`flow_changed`) unless `flow` has the stages that the run began with, joined in the same way."""
    then = {info.name: info for info in started.stages}
    now = {info.name: info for info in infos}
    _same_stages(run, started.flow, flow, then.keys(), now.keys(), remedy=remedy)
    for name, info in now.items():
        if sorted(info.inputs) != sorted(then[name].inputs):
            reads, read = (", ".join(each.inputs) or "nothing" for each in (info, then[name]))
            raise _changed(f"stage {name} reads {reads}, and read {read} in run {run}", remedy)


def _same_stages(run: str, flow_then: str, flow: str, then: Set[str], now: Set[str], *, remedy: str = _AS_IT_WAS) -> None:
    if flow != flow_then:
        raise _changed(f"run {run} is of flow {flow_then!r}, not {flow!r}", "Give the flow it was started with.")
    gone, new = sorted(then - now), sorted(now - then)
    if gone or new:
        told = [f"{', '.join(gone)} {'is' if len(gone) == 1 else 'are'} gone"] if gone else []
        told += [f"{', '.join(new)} {'is' if len(new) == 1 else 'are'} new"] if new else []
        raise _changed(f"flow {flow!r} has other stages than run {run}: {'; '.join(told)}", remedy)


Schemas = Mapping[str, tuple[SchemaChange, ...]]
"""As in `RunResumed`."""


def judge_schemas(
    codecs: Mapping[str, Codec], manifest: Manifest, *, earlier: Schemas, written: Mapping[str, int], allowed: bool
) -> dict[str, tuple[SchemaChange, ...]]:
    """What a resume records of event types: each change so far, and those of today's flow, per stage that has any.

    `written` is the next ordinal of each stage. Raises `FlowInvalid` (`schema_changed`), unless `allowed`, when a stage
    declares an older version of a class than stands in the log: nobody can say how to read that.
    """
    changes: dict[str, tuple[SchemaChange, ...]] = dict(earlier)
    for stage, wrote in _written(codecs, manifest, earlier).items():
        now, last = codecs[stage].schema(written.get(stage, 0)), wrote[-1]
        if (now.fingerprint, now.versions) == (last.fingerprint, last.versions):
            continue
        newer = [name for each in wrote for name, version in each.versions.items() if version > now.versions.get(name, version)]
        if newer and not allowed:
            raise FlowInvalid(
                f"run {manifest.run_id} holds events of a later version of {newer[0]} than the {now.versions[newer[0]]} "
                f"that {stage} declares now",
                code="schema_changed",
                remedy="Resume with the newer program, or start a new run; --allow-code-change reads them all the same.",
            )
        changes[stage] = (*earlier.get(stage, ()), now)
    return changes


def schemas_written(codecs: Mapping[str, Codec], manifest: Manifest, changes: Schemas) -> None:
    """Tell each codec under which schemas its stage's events stand in the log."""
    for stage, wrote in _written(codecs, manifest, changes).items():
        codecs[stage].written(wrote)


def _written(codecs: Mapping[str, Codec], manifest: Manifest, changes: Schemas) -> dict[str, Sequence[SchemaChange]]:
    found: dict[str, Sequence[SchemaChange]] = {}
    for stage, codec in codecs.items():
        if stage in manifest.schemas and stage != DEAD_LETTERS and codec.declared:
            versions = manifest.schema_versions.get(stage) or {each.text: 1 for each in codec.declared}
            found[stage] = (SchemaChange(0, manifest.schemas[stage], versions), *changes.get(stage, ()))
    return found


def _same_parameters(manifest: Manifest, parameters: Mapping[str, Any], nodes: Mapping[str, Node]) -> None:
    """One that is not given is its default, then and now; whether that default is still the same is a matter of code."""
    for stage in sorted({*manifest.parameters, *parameters} & nodes.keys()):
        defaults = _defaults(nodes[stage])
        before, now = ({**defaults, **each.get(stage, {})} for each in (manifest.parameters, parameters))
        for name in sorted({*before, *now}):
            if name in before and name in now and before[name] == now[name]:
                continue
            is_now = f"{stage}.{name} is {now[name]!r}" if name in now else f"{stage} has no parameter {name!r}"
            was = f"with {before[name]!r}" if name in before else "without it"
            raise _changed(
                f"{is_now}, run {manifest.run_id} was started {was}",
                "Give the same parameters, start a run of another name, or go on all the same with --allow-code-change.",
            )


def _defaults(node: Node) -> dict[str, Any]:
    return node(**{name: each.default for name, each in node.parameters.items() if each.default is not MISSING}).plain()


def _other_python(manifest: Manifest) -> str:
    before, now = manifest.versions.get("python", ""), versions()["python"]
    same = before.split(".")[:2] == now.split(".")[:2]
    return "" if same else f", or cannot be compared: that was under Python {before}, this is {now}"


def _changed(message: str, remedy: str) -> FlowInvalid:
    return FlowInvalid(message, code="flow_changed", remedy=remedy)
