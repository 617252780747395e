"""What earlier versions left behind is read, checked, replayed and gone on with: journals last longer than versions.

The golden files are committed and listed by their SHA-256; nothing here writes one. `make.py` says how they were made.
"""

import msgspec
import pytest

from obzen_runtime.events import KINDS, Block, Offsets, Paired, Receipt, Since
from obzen_runtime.journal import check
from tests.golden.kit import (
    events_of,
    expected_of,
    flows_of,
    kinds_of,
    module_of,
    records_of,
    sums,
    unpack,
    versions,
    written_sums,
)
from tests.golden.reading import codecs_of, gone_on, replayed

VERSIONS = versions()
RUNS = [pytest.param(version, name, id=f"{version.name}-{name}") for version in VERSIONS for name in expected_of(version)]
FLOWS = [each for each in RUNS if expected_of(each.values[0])[each.values[1]].flow]
MOST = 600_000
LARGEST = 30_000


@pytest.fixture
def golden(tmp_path, monkeypatch):
    """Unpack a run, and stand where its paths lead."""

    def unpacked(version, name):
        run = unpack(version, name, tmp_path)
        monkeypatch.chdir(tmp_path)
        flows = flows_of(version)
        flows.HOLD.clear()
        flows.BROKEN.clear()
        return flows, run, expected_of(version)[name]

    return unpacked


def test_there_are_golden_runs():
    assert VERSIONS
    assert all(len(expected_of(version)) >= 20 for version in VERSIONS)


@pytest.mark.parametrize("version", VERSIONS, ids=lambda version: version.name)
def test_golden_files_are_those_that_were_committed(version):
    assert sums(version) == written_sums(version)
    assert {f"{name}.tar.xz" for name in expected_of(version)} <= written_sums(version).keys()


def test_golden_files_are_small():
    sizes = {path: path.stat().st_size for version in VERSIONS for path in version.glob("*.tar.xz")}
    assert max(sizes.values()) < LARGEST
    assert sum(sizes.values()) < MOST * len(VERSIONS)


@pytest.mark.parametrize(("version", "name"), RUNS)
def test_a_golden_run_is_read_and_checked(version, name, golden):
    flows, run, expected = golden(version, name)
    found = records_of(run)
    assert (found[-1][0], kinds_of(found)) == (expected.head, expected.kinds)
    report = check(run)
    assert not report.problems or name == "every_record", report.problems
    if expected.flow:
        codecs = codecs_of(getattr(flows, expected.flow), run, found)
        assert events_of(found, codecs) == expected.events


@pytest.mark.parametrize(("version", "name"), FLOWS)
def test_a_golden_run_replays_without_a_difference(version, name, golden):
    flows, run, expected = golden(version, name)
    assert replayed(getattr(flows, expected.flow), run) == expected.certified


@pytest.mark.parametrize(("version", "name"), FLOWS)
def test_a_golden_run_is_gone_on_with(version, name, golden):
    flows, run, expected = golden(version, name)
    assert gone_on(getattr(flows, expected.again), run) == (expected.report, expected.resumed)


@pytest.mark.parametrize("version", VERSIONS, ids=lambda version: version.name)
def test_every_record_that_a_version_wrote_is_itself_again(version, golden):
    _, run, _ = golden(version, "every_record")
    wrote = module_of(version, "records").RECORDS
    assert [record for _, record in records_of(run)] == list(wrote)


# -- what they cover --------------------------------------------------------------------------------


def test_every_kind_of_record_and_every_column_is_in_the_newest_golden_runs():
    wrote = module_of(VERSIONS[-1], "records").RECORDS
    assert {type(each) for each in wrote} == set(KINDS.values())
    for kind in KINDS.values():
        unused = set(kind.__struct_fields__) - {"format"}  # there is one so far
        for each in wrote:
            if type(each) is kind:
                unused -= {name for name, default in _defaults(kind).items() if getattr(each, name) != default}
        assert not unused, (
            f"{kind.__name__}: put {unused} into obzen_runtime/testing/samples.py and make the golden runs of the next version"
        )


def _defaults(kind):
    """The default of each field; what has none is always used."""
    fields = msgspec.structs.fields(kind)
    return {
        each.name: each.default
        if each.default is not msgspec.NODEFAULT
        else each.default_factory()
        if callable(each.default_factory)
        else None
        for each in fields
    }


def test_flows_wrote_nearly_every_kind_of_record_of_themselves():
    kinds = {kind for expected in expected_of(VERSIONS[-1]).values() if expected.flow for kind in expected.kinds}
    assert {kind.__name__ for kind in KINDS.values()} == kinds


def test_flows_wrote_every_kind_of_parents_and_cursor_of_themselves(tmp_path):
    version, parents, columns, marks, reasons = VERSIONS[-1], set(), set(), set(), set()
    for name, expected in expected_of(version).items():
        if not expected.flow:
            continue
        for _, record in records_of(unpack(version, name, tmp_path / name)):
            if isinstance(record, Block | Receipt):
                reasons |= {lost.reason for lost in record.errors}
                cursor = record.cursor
                marks |= {each for each in ("within", "inside", "mark", "since", "crc") if cursor is not None and getattr(cursor, each)}
            if isinstance(record, Block):
                parents.add(type(record.parents))
                columns |= {type(record.types)}
                columns |= {type(record.parents.runs)} if isinstance(record.parents, Offsets | Paired) else set()
    assert parents == {type(None), Offsets, Paired, Since}
    assert columns == {int, bytes, tuple}
    assert marks == {"within", "inside", "mark", "since", "crc"}
    assert reasons == {"dropped", "unmatched", "dead", "skipped", "undecodable", "doubted"}
