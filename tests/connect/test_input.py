"""What every source of files says of a file that cannot be read, or is no text."""

import gzip
from pathlib import Path

import pytest

from obzen_runtime.connect import csv_source, json_source, jsonl_source
from obzen_runtime.kernel import IoFailed, PermissionDenied, ValidationFailed
from tests.connect.kit import Row, read, written

SOURCES = pytest.mark.parametrize("make", [csv_source, json_source, jsonl_source])


@SOURCES
@pytest.mark.parametrize(
    ("content", "how"),
    [(gzip.compress(b"id,text\n1,a\n", mtime=0), "gzip"), (b"PK\x03\x04rest", "zip"), (b"\x28\xb5\x2f\xfdrest", "zstd")],
    ids=["gzip", "zip", "zstd"],
)
def test_a_packed_file_is_told_to_be_one_and_gives_no_letters(make, content, how, tmp_path):
    path = written(tmp_path / "t", content)
    with pytest.raises(ValidationFailed) as failed:
        read(make("rows", Row, path=path))
    assert failed.value.message == f"{path} is packed with {how}, expected text"
    assert failed.value.remedy == "Unpack it, and give the path of what comes out."


@SOURCES
@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
def test_a_file_in_utf_16_is_told_to_be_one_where_utf_8_is_expected(make, encoding, tmp_path):
    path = written(tmp_path / "t", '\ufeff[{"id":1,"text":"a"}]'.encode(encoding))
    with pytest.raises(ValidationFailed, match="is in UTF-16, expected UTF-8") as failed:
        read(make("rows", Row, path=path))
    assert "encoding='utf-16'" in failed.value.remedy


@SOURCES
def test_a_path_that_no_file_can_have_is_told_in_one_line(make, tmp_path):
    with pytest.raises(IoFailed, match=r"cannot read 'a\\x00b': no file can be called that") as failed:
        read(make("rows", Row, path="a\0b"))
    assert failed.value.remedy == "Check the path."


@SOURCES
def test_a_file_one_may_not_read_is_told_with_its_path(make, tmp_path, monkeypatch):
    path = written(tmp_path / "t", "")

    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("pathlib.Path.open", refuse)
    with pytest.raises(PermissionDenied) as failed:
        read(make("rows", Row, path=path))
    assert failed.value.message == f"cannot read {path}: permission denied"


@pytest.mark.skipif(not Path("/proc/self/mem").exists(), reason="needs a file whose first bytes cannot be read")
@SOURCES
def test_a_disk_that_fails_names_the_byte(make):
    with pytest.raises(IoFailed, match="cannot read /proc/self/mem at byte 0: Input/output error") as failed:
        read(make("rows", Row, path="/proc/self/mem"))
    assert "Check the disk" in failed.value.remedy
