"""What was started, written once at the start of a run: enough to find the code again and to see whether it is the same.

JSON for people to read, not to edit: a resume takes its parameters from here. So `crc`, the last of its fields, is that
of all others in their order by name, in hexadecimal; a manifest of a version that wrote none is taken as it is.
"""

from pathlib import Path
from typing import Any
from zlib import crc32

import msgspec

from obzen_runtime.kernel import Files, FlowInvalid, PermissionDenied, RunId, SystemFiles, ValidationFailed, find_secret

__all__ = ["MANIFEST_FORMAT", "Manifest", "read_manifest", "write_manifest"]

MANIFEST_FORMAT = 1


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """A run as it was started. Grows by addition; a field that is not known is passed over."""

    format: int = MANIFEST_FORMAT
    """Version of this file."""
    run_id: RunId
    flow: str
    """Name of the flow, plan or action."""
    file: str | None = None
    """Path of the program that defines the flow; None for a flow built inside a function."""
    variable: str | None = None
    """Name of the flow in that program."""
    code: dict[str, str] = {}
    """Fingerprint of each stage's code."""
    schemas: dict[str, str] = {}
    """Fingerprint of each stage's output types."""
    schema_versions: dict[str, dict[str, int]] = {}
    """Per stage the version of each output type, by name and in declared order; what a run does not say is version 1."""
    parameters: dict[str, Any] = {}
    """What the flow was started with. No secrets: those are references."""
    options: dict[str, Any] = {}
    durability: str = "os"
    """Level of the journal, as on the command line."""
    versions: dict[str, str] = {}
    """Of python, obzen and msgspec."""
    platform: str = ""
    started_ms: int = 0
    """Wall time, milliseconds since 1970 UTC."""
    origin: RunId | None = None
    """The run this one was forked from."""


class _Format(msgspec.Struct):
    format: int


def write_manifest(path: Path, manifest: Manifest, *, files: Files | None = None, allowed: tuple[str, ...] = ()) -> None:
    """Write atomically and durably, as indented JSON.

    Raises `PermissionDenied` when a parameter or option looks like a secret and its place (`$.parameters.name`) is not
    in `allowed`, `ValidationFailed` when one cannot be written as JSON, OSError when the disk fails.
    """
    try:
        encoded = msgspec.json.encode(manifest)
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise ValidationFailed(
            f"the manifest of run {manifest.run_id} cannot be written: {error}", remedy="Give parameters that JSON can hold"
        ) from error
    place = find_secret({"parameters": msgspec.to_builtins(manifest.parameters), "options": msgspec.to_builtins(manifest.options)}, allowed)
    if place is not None:
        raise PermissionDenied(
            f"the manifest would hold what looks like a secret at {place}",
            remedy="Pass a reference (oz.Secret) instead, or allow the place when it is none",
            place=place,
        )
    sealed = encoded[:-1] + b',"crc":"%s"}' % _crc(msgspec.json.decode(encoded)).encode()
    (files or SystemFiles()).replace(path, msgspec.json.format(sealed, indent=2) + b"\n")


def _crc(fields: dict[str, Any]) -> str:
    return f"{crc32(msgspec.json.encode(fields, order='deterministic')):08x}"


def read_manifest(path: Path, *, files: Files | None = None) -> Manifest:
    """Read a manifest. Raises `FlowInvalid`: `manifest_missing`, or `manifest_invalid` naming the field."""
    files = files or SystemFiles()
    try:
        if not files.exists(path):
            raise FlowInvalid(
                f"{path} is missing",
                code="manifest_missing",
                remedy="Restore it from a copy, or give the directory of a run that was started",
            )
        content = files.read(path)
    except OSError as error:
        raise FlowInvalid(
            f"{path} cannot be read: {error.strerror}", code="manifest_invalid", remedy="Look at the disk and at who may read it"
        ) from error
    try:
        version = msgspec.json.decode(content, type=_Format).format
        if version > MANIFEST_FORMAT:
            raise FlowInvalid(
                f"{path} has format {version}, this version reads up to {MANIFEST_FORMAT}",
                code="manifest_invalid",
                remedy="Use the version that wrote it, or a newer one",
            )
        found, fields = msgspec.json.decode(content, type=Manifest), msgspec.json.decode(content)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise _not_written(f"{path} is not a manifest: {error}") from error
    crc = fields.pop("crc", None)
    if crc is not None and crc != _crc(fields):
        raise _not_written(f"{path} is not what was written: its fields do not match their checksum")
    return found


def _not_written(message: str) -> FlowInvalid:
    return FlowInvalid(message, code="manifest_invalid", remedy="Restore it from a copy; it is not meant to be edited")
