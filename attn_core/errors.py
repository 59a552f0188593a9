"""Every error this project raises on purpose.

AttnError
├── InvalidFingerprint   a vector (or what lies beside it) breaks an invariant
├── WireError            a ZMQ frame that is not ours, damaged, or of another version
├── StoreError           the SQLite database cannot be used as it is
│   ├── SchemaMismatch   the database has another schema version
│   └── QueryTooLong     a question to the store took longer than it may
├── BundleError          a discovery bundle is missing, damaged or of another version
├── CalibrationError     a zone calibration cannot be made, read or used
├── ProjectionError      a head projection cannot be made, read or used
└── SettingsError        a flag or environment variable has a value that cannot be used
"""

from __future__ import annotations


class AttnError(Exception):
    """Base of the project's errors. The message says what was wrong, the value, what is valid and what to do."""


class InvalidFingerprint(AttnError):
    """A fingerprint breaks one of the invariants of `attn_core.fingerprint`."""


class WireError(AttnError):
    """A message on the wire cannot be decoded; `reason` is a short stable word for counters."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class StoreError(AttnError):
    """The fingerprint database cannot be opened, read or written."""


class SchemaMismatch(StoreError):
    """The database was written by another schema version."""


class QueryTooLong(StoreError):
    """A question to the store was given up: it ran into its time limit."""


class BundleError(AttnError):
    """A discovery bundle is missing, incomplete, damaged or of another version."""


class CalibrationError(AttnError):
    """A zone calibration cannot be made, read or used."""


class ProjectionError(AttnError):
    """A head projection cannot be made, read or used."""


class SettingsError(AttnError):
    """A setting's value cannot be used."""
