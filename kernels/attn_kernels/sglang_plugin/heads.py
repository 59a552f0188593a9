"""The single heads of a model runner: the head projection of its sketches, and whose raw figures are published.

The current matrix is one file in a directory of the server's. The publisher's thread puts there what the sidecar offers
(`Heads.take`); every step looks whether the file has changed, so that a new matrix is used without a restart, by each
rank of tensor parallelism too. Where there is no such file, the matrix that comes with this package is used, if any.
"""

from __future__ import annotations

import hashlib
import logging
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from attn_core.errors import ProjectionError
from attn_core.head_projection import (
    HeadProjection,
    current_projection,
    projection_file,
    put_projection,
    shipped_projection,
)

logger = logging.getLogger(__name__)

SAMPLE_WITH_MATRIX = 256
"""With a matrix one token in this many gives its raw figures, or fewer: what it was learned from may change."""
AGREE_STEPS = 32
"""Ranks ask one another which matrix they have found once in so many steps."""

Agree = Callable[[int], bool]
"""Whether all ranks called it with the same number of 62 bits; every rank calls it in the same step."""


@dataclass(frozen=True, kw_only=True)
class StepHeads:
    """What a step does with its single heads."""

    projection: HeadProjection | None
    """What its sketches are made with; None: it makes none."""
    sampled: int | None
    """Which of the plan's rows gives its raw figures, if one does."""


class Heads:
    """One model runner's. `step` is for the thread that runs the steps, `take` for the publisher's.

    `sample` is the number of tokens of which one gives its raw figures while there is no matrix, 0 for never. With
    `agree` several ranks hold the heads: a matrix is used from the step on in which all of them have found the same.
    """

    def __init__(
        self,
        *,
        model_id: str,
        layers: tuple[int, ...],
        num_heads: int,
        folder: Path,
        sample: int,
        agree: Agree | None = None,
    ) -> None:
        self.model_id = model_id
        self.layers = layers
        self.num_heads = num_heads
        self.folder = folder
        self.in_use: HeadProjection | None = None
        """The matrix of the newest step, or the one found at start; a plain field, since other threads look at it."""
        self._path = folder / projection_file(model_id)
        self._sample = sample
        self._agree = agree
        self._seen: object = "never looked"
        self._told_disagreement = False
        self._num_steps = 0
        # The same on every rank, since all run the same steps: they sample the same rows.
        self._draw = random.Random(0)  # noqa: S311 - no secret
        self._shipped = self._fitting_shipped()
        self._found = self._shipped
        self._look()
        if agree is None:
            self.in_use = self._found

    def take(self, data: bytes) -> bool:
        """Make this the current matrix, from the next step on; whether it is another than the current one.

        Raises `ProjectionError` where it is none, or not of this model and its captured heads, OSError where it cannot
        be kept; nothing changes then.
        """
        projection = HeadProjection.from_bytes(data)
        if why := projection.why_unfit(model_id=self.model_id, layers=self.layers, num_heads=self.num_heads):
            raise ProjectionError(f"head projection {projection.sha256[:12]} does not fit: {why}")
        try:
            current = current_projection(self.folder, self.model_id) or self._shipped
        except ProjectionError:
            current = None  # a torn file is replaced
        if current is not None and current.sha256 == projection.sha256:
            return False
        put_projection(self.folder, projection)
        return True

    def step(self, num_rows: int) -> StepHeads:
        """A step of so many captured rows begins; one call a step, on every rank. Never raises."""
        self._look()
        if self._agree is None:
            self._use(self._found)
        elif self._num_steps % AGREE_STEPS == 0:
            self._ask_others(self._agree)
        self._num_steps += 1
        return StepHeads(projection=self.in_use, sampled=self._sampled(num_rows))

    def _sampled(self, num_rows: int) -> int | None:
        """At most one row a step: as many tokens as asked for, in steps of fewer rows than that."""
        every = self._sample if self.in_use is None else max(self._sample, SAMPLE_WITH_MATRIX)
        if not self._sample or not num_rows or self._draw.random() * every >= num_rows:
            return None
        return self._draw.randrange(num_rows)

    def _look(self) -> None:
        """Read the file where it is another than the one looked at last: a stat a step."""
        try:
            stat = self._path.stat()
            now: object = (stat.st_ino, stat.st_mtime_ns, stat.st_size)
        except OSError as error:
            now = type(error)
        if now == self._seen:
            return
        self._seen = now
        try:
            kept = current_projection(self.folder, self.model_id)
            why = None if kept is None else self._why_unfit(kept)
            if why is not None:
                raise ProjectionError(f"{self._path}: {why}")
        except ProjectionError as error:
            logger.error(
                "Attention capture: no new head projection: %s. Sketches go on as before (%s). The next offer of "
                "the sidecar replaces the file; it can also be removed.",
                error,
                "none" if self._found is None else self._found.sha256[:12],
            )
            return
        self._found = self._shipped if kept is None else kept

    def _use(self, projection: HeadProjection | None) -> None:
        if projection is self.in_use:
            return
        self.in_use = projection
        if projection is None:
            logger.warning("Attention capture: no head projection any more; tokens have no sketch from here on.")
        else:
            logger.info("Attention capture: sketches by head projection %s from here on.", projection.sha256[:12])

    def _ask_others(self, agree: Agree) -> None:
        """Use what this rank has found if all have found it; else all go on with what they use, which is the same."""
        name = "none" if self._found is None else self._found.sha256
        if agree(int(hashlib.sha256(name.encode()).hexdigest()[:15], 16)):
            self._told_disagreement = False
            self._use(self._found)
        elif not self._told_disagreement:
            self._told_disagreement = True
            logger.warning(
                "Attention capture: ranks have found different head projections (this one: %s); until they agree, "
                "sketches go on as before (%s). Each rank reads %s on its own machine.",
                name[:12],
                "none" if self.in_use is None else self.in_use.sha256[:12],
                self._path,
            )

    def _fitting_shipped(self) -> HeadProjection | None:
        try:
            shipped = shipped_projection(self.model_id)
        except ProjectionError as error:
            logger.error("Attention capture: the head projection that comes with this package is damaged: %s", error)
            return None
        if shipped is not None and (why := self._why_unfit(shipped)):
            logger.info("Attention capture: the head projection that comes with this package is not used: %s", why)
            return None
        return shipped

    def _why_unfit(self, projection: HeadProjection) -> str | None:
        return projection.why_unfit(model_id=self.model_id, layers=self.layers, num_heads=self.num_heads)
