"""What was started, as a file: read back equal, refused when it is not what was written."""

import json

import pytest

from obzen_runtime.journal import MANIFEST_FORMAT, Manifest, read_manifest, write_manifest
from obzen_runtime.journal.manifest import _crc
from obzen_runtime.kernel import FlowInvalid, PermissionDenied, RunId, ValidationFailed
from obzen_runtime.testing import SimulatedDisk
from tests.journal.kit import RUN, flipped, tell

PATH = RUN / "manifest.json"
MANIFEST = Manifest(
    run_id=RunId("nightly"),
    flow="orders",
    file="/home/x/flow.py",
    variable="flow",
    code={"double": "ab12"},
    schemas={"double": "cd34"},
    parameters={"day": "2024-01-01", "limits": [1, 2.5, None, {"deep": True}]},
    options={"block": 4096},
    durability="interval(50)",
    versions={"python": "3.11.7", "obzen": "0.1.0", "msgspec": "0.19"},
    platform="linux",
    started_ms=1_700_000_000_000,
    origin=RunId("mother"),
)


def test_a_manifest_comes_back_equal(tmp_path):
    path = tmp_path / "manifest.json"
    write_manifest(path, MANIFEST)
    assert read_manifest(path) == MANIFEST
    text = path.read_text()
    assert text.startswith('{\n  "format": 1,\n  "run_id": "nightly",\n')
    assert text.endswith("}\n")


def test_a_manifest_of_the_least_is_enough():
    disk = SimulatedDisk()
    disk.make_directory(RUN)
    least = Manifest(run_id=RunId("a"), flow="f")
    write_manifest(PATH, least, files=disk)
    assert read_manifest(PATH, files=disk) == least
    assert least.file is None


def stored(content):
    disk = SimulatedDisk()
    disk.make_directory(RUN)
    if content is not None:
        disk.put(PATH, content)
    return disk


def without(field):
    fields = json.loads(written())
    del fields[field]
    return json.dumps(fields).encode()


def changed(**fields):
    return json.dumps({**json.loads(written()), **fields}).encode()


def written():
    disk = stored(None)
    write_manifest(PATH, MANIFEST, files=disk)
    return disk.content(PATH)


@pytest.mark.parametrize(
    ("content", "code", "says"),
    [
        (None, "manifest_missing", "missing"),
        (b"", "manifest_invalid", "not a manifest"),
        (b"{", "manifest_invalid", "not a manifest"),
        (b"[]", "manifest_invalid", "not a manifest"),
        (b'{"format": "x"}', "manifest_invalid", "format"),
        (b"\xff\xfe{}", "manifest_invalid", "not a manifest"),
        (b'{"format": 1, "run_id": "\xff"}', "manifest_invalid", "not a manifest"),
        (changed(format=MANIFEST_FORMAT + 1), "manifest_invalid", "format 2"),
        (changed(run_id="../x"), "manifest_invalid", "run_id"),
        (changed(started_ms="soon"), "manifest_invalid", "started_ms"),
        (without("flow"), "manifest_invalid", "flow"),
    ],
)
def test_a_manifest_that_was_edited_or_is_missing_is_refused_clearly(content, code, says):
    with pytest.raises(FlowInvalid) as caught:
        read_manifest(PATH, files=stored(content))
    assert caught.value.code == code
    assert says in str(caught.value)
    assert str(PATH) in str(caught.value)
    assert caught.value.remedy


def test_a_field_of_a_later_version_is_passed_over():
    assert read_manifest(PATH, files=stored(changed(crc=None, colour="red"))) == MANIFEST
    fields = {**json.loads(written()), "colour": "red"}
    del fields["crc"]
    later = {**fields, "crc": _crc(fields)}
    assert read_manifest(PATH, files=stored(json.dumps(later).encode())) == MANIFEST


def test_a_manifest_of_an_earlier_version_has_no_checksum_and_is_read():
    assert read_manifest(PATH, files=stored(without("crc"))) == MANIFEST


def test_T_FLIP_a_flipped_bit_anywhere_in_a_manifest_is_refused_or_changes_nothing():
    content, refused = written(), 0
    for bit in range(len(content) * 8):
        try:
            assert read_manifest(PATH, files=stored(flipped(content, bit))) == MANIFEST, content[max(0, bit // 8 - 20) : bit // 8 + 20]
        except FlowInvalid as error:
            refused += error.code == "manifest_invalid"
    tell(f"{len(content) * 8} bits of a manifest flipped: {refused} refused, 0 taken for what was written")
    assert refused > len(content) * 8 * 0.9


@pytest.mark.parametrize("field", ["parameters", "options"])
def test_a_manifest_that_is_nested_too_deep_is_refused(field):
    content = b'{"format":1,"run_id":"x","flow":"f","%s":{"a":' % field.encode() + b"[" * 100_000 + b"]" * 100_000 + b"}}"
    with pytest.raises(FlowInvalid, match="not a manifest"):
        read_manifest(PATH, files=stored(content))


def test_a_manifest_that_cannot_be_read_is_told_with_the_reason(tmp_path):
    (tmp_path / "manifest.json").mkdir()
    with pytest.raises(FlowInvalid, match="Is a directory") as caught:
        read_manifest(tmp_path / "manifest.json")
    assert caught.value.code == "manifest_invalid"


def test_an_edit_by_hand_is_told():
    edited = written().replace(b'"2024-01-01"', b'"2024-01-02"')
    with pytest.raises(FlowInvalid, match="checksum") as caught:
        read_manifest(PATH, files=stored(edited))
    assert "not meant to be edited" in caught.value.remedy


def test_a_manifest_cut_at_any_byte_is_refused():
    content = written()
    for size in range(len(content) - 2):
        with pytest.raises(FlowInvalid):
            read_manifest(PATH, files=stored(content[:size]))


def test_a_parameter_that_looks_like_a_secret_is_refused_unless_allowed():
    disk = stored(None)
    secretive = Manifest(run_id=RunId("a"), flow="f", parameters={"api_key": "x"})
    with pytest.raises(PermissionDenied) as caught:
        write_manifest(PATH, secretive, files=disk)
    assert caught.value.details["place"] == "$.parameters.api_key"
    assert not disk.exists(PATH)
    write_manifest(PATH, secretive, files=disk, allowed=("$.parameters.api_key",))
    assert read_manifest(PATH, files=disk) == secretive


@pytest.mark.parametrize("value", [object(), {1, object()}, "\ud800"])
def test_a_parameter_that_json_cannot_hold_is_refused(value):
    disk = stored(None)
    with pytest.raises(ValidationFailed):
        write_manifest(PATH, Manifest(run_id=RunId("a"), flow="f", parameters={"x": value}), files=disk)
    assert not disk.exists(PATH)
