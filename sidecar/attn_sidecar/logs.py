"""Structured logs: one line an event, an event name and fields. Never the text of a prompt or an answer."""

from __future__ import annotations

import asyncio
import json
import logging
import sys
import time
import traceback

from attn_core.errors import AttnError

_ROOT, _UVICORN = "attn_sidecar", "uvicorn"
_MAX_LINES = 200


def logger_named(part: str) -> logging.Logger:
    """The logger of one part of the sidecar."""
    return logging.getLogger(f"{_ROOT}.{part}")


def log_event(logger: logging.Logger, level: int, event: str, **fields: object) -> None:
    """Log `event` (a short stable name) with `fields` (numbers, ids, reasons; not prompt or answer text)."""
    logger.log(level, event, extra={"fields": fields})


class EventFormatter(logging.Formatter):
    """Formats a record as ``text`` (one readable line) or ``json`` (one object a line), instants in UTC."""

    def __init__(self, log_format: str) -> None:
        super().__init__()
        self._as_json = log_format == "json"

    def format(self, record: logging.LogRecord) -> str:
        at = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03d}Z"
        fields: dict[str, object] = dict(getattr(record, "fields", {}))
        event = record.getMessage()
        if record.name.startswith(_UVICORN):
            # Its lines are sentences: they get a name, so that every event has one.
            event, fields["said"] = "http.server", event.strip()
        if record.exc_info and isinstance(record.exc_info[1], asyncio.CancelledError):
            # What was still being answered when the time to stop was over: no fault, so no traceback.
            event = "http.cut_off"
        elif record.exc_info and record.exc_info[1] is not None:
            fields["traceback"] = _places(record.exc_info[1])
        if self._as_json:
            line = {"at": at, "level": record.levelname.lower(), "part": record.name, "event": event, **fields}
            return json.dumps(line, default=str)
        tail = " ".join(f"{name}={value}" for name, value in fields.items())
        return f"{at} {record.levelname:<7} {event}" + (f"  {tail}" if tail else "")


def _places(error: BaseException) -> str:
    """Which error, raised where, and what it came from; not its words, which may quote what was sent."""
    lines = []
    while True:
        for frame in traceback.extract_tb(error.__traceback__):
            lines.append(f"  {frame.filename}:{frame.lineno} in {frame.name}")
        told = isinstance(error, AttnError | OSError)
        lines.append(f"{type(error).__name__}: {error}" if told else type(error).__name__)
        cause = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
        if cause is None or len(lines) > _MAX_LINES:
            return "\n".join(lines)
        lines.append("from:")
        error = cause


def configure_logging(log_format: str) -> None:
    """Send everything, uvicorn's lines included, to standard error in one format."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(EventFormatter(log_format))
    for name, level in ((_ROOT, logging.INFO), (_UVICORN, logging.WARNING)):
        logger = logging.getLogger(name)
        logger.handlers[:] = [handler]
        logger.setLevel(level)
        logger.propagate = False
