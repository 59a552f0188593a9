"""Head projections for the model servers: the current one of each model, offered to sources that use another.

Discovery puts a model's current matrix into `head_projections/` of its folder (`attn_core.head_projection`). A source
says with its batches which matrix it uses; where that is another, it is sent the current one, once in `OFFER_S`.
"""

from __future__ import annotations

import logging
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from attn_core.errors import ProjectionError
from attn_core.head_projection import FOLDER, HeadProjection, current_projection, projection_file
from attn_core.wire import SourceInfo
from attn_sidecar.logs import log_event, logger_named

_LOG = logger_named("head_offers")
OFFER_S = 30.0
"""A source is not offered a matrix twice within this time: it may still be sending what it had made before."""
LOOK_S = 1.0
"""A file is looked at once in this time at most."""
_KEPT = 1024
"""Sources, and models, that are remembered."""


@dataclass(frozen=True, kw_only=True)
class _Looked:
    at_s: float
    stamp: object
    current: HeadProjection | None


class HeadOffers:
    """The matrices of one discovery folder. Used by one thread; never raises for what lies in the folder."""

    def __init__(self, discovery_dir: Path, *, now_s: Callable[[], float] = time.monotonic) -> None:
        self.folder = discovery_dir / FOLDER
        self._now_s = now_s
        self._looked: OrderedDict[str, _Looked] = OrderedDict()
        self._offered_at_s: OrderedDict[bytes, float] = OrderedDict()
        self._told_unfit: OrderedDict[tuple[str, str], None] = OrderedDict()

    def offer(self, *, source_id: bytes, info: SourceInfo) -> bytes | None:
        """What this source should be sent, as it has just named its matrix in `info`: `HeadProjection.to_bytes`.

        None where it uses the current one, where there is none that fits its layers and heads, or where it has been
        offered one lately.
        """
        now_s = self._now_s()
        current = self._current(info.model_id, now_s=now_s)
        if current is None or current.sha256 == info.head_projection:
            return None
        offered_at_s = self._offered_at_s.get(source_id)
        if offered_at_s is not None and now_s - offered_at_s < OFFER_S:
            return None
        if why := current.why_unfit(model_id=info.model_id, layers=info.captured_layers, num_heads=info.num_heads):
            self._tell_unfit(info.model_id, current, why)
            return None
        self._offered_at_s[source_id] = now_s
        self._offered_at_s.move_to_end(source_id)
        _bound(self._offered_at_s)
        log_event(
            _LOG, logging.INFO, "ingest.head_projection_offered", source=source_id.hex(), projection=current.sha256,
            instead_of=info.head_projection,
        )  # fmt: skip
        return current.to_bytes()

    def _current(self, model_id: str, *, now_s: float) -> HeadProjection | None:
        """The model's current matrix, read again when its file has changed; a torn one leaves the former current."""
        looked = self._looked.get(model_id)
        if looked is not None and now_s - looked.at_s < LOOK_S:
            return looked.current
        stamp = self._stamp(model_id)
        if looked is not None and stamp == looked.stamp:
            current = looked.current
        else:
            try:
                current = current_projection(self.folder, model_id)
            except ProjectionError as error:
                current = None if looked is None else looked.current
                log_event(_LOG, logging.ERROR, "ingest.head_projection_unreadable", reason=error)
        self._looked[model_id] = _Looked(at_s=now_s, stamp=stamp, current=current)
        self._looked.move_to_end(model_id)
        _bound(self._looked)
        return current

    def _stamp(self, model_id: str) -> object:
        try:
            stat = (self.folder / projection_file(model_id)).stat()
        except OSError as error:
            return type(error)
        return stat.st_ino, stat.st_mtime_ns, stat.st_size

    def _tell_unfit(self, model_id: str, current: HeadProjection, why: str) -> None:
        """Once a matrix: every batch would say so again."""
        if (model_id, current.sha256) not in self._told_unfit:
            self._told_unfit[model_id, current.sha256] = None
            _bound(self._told_unfit)
            log_event(_LOG, logging.WARNING, "ingest.head_projection_unfit", model_id=model_id, reason=why)


def _bound(
    remembered: OrderedDict[bytes, float] | OrderedDict[str, _Looked] | OrderedDict[tuple[str, str], None],
) -> None:
    if len(remembered) > _KEPT:
        remembered.popitem(last=False)
