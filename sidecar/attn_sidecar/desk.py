"""Where questions are answered: a lone vector at once, on the event loop, by plain arithmetic.

What that leaves (a vector that breaks an invariant, a classifier of very many prototypes) goes to a thread, where
questions that arrive during one batch make the next, so that NumPy's cost is shared.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from dataclasses import dataclass

from attn_core.errors import InvalidFingerprint
from attn_core.lone import LoneClassifier, checked
from attn_sidecar.discovery import Discovery
from attn_sidecar.health import HealthBoard
from attn_sidecar.manifold import Manifold, Question, manifold_from_answer, manifolds

PART = "classify"
MAX_QUESTIONS_A_BATCH = 512
MOST_PROTOTYPES_AT_ONCE = 4096
"""Beyond this many a single vector would hold the event loop up for longer than a hand-over to the thread costs."""


@dataclass(frozen=True, kw_only=True)
class _Asked:
    question: Question
    answer: asyncio.Future[tuple[Manifold, str | None]]


class ClassifyDesk:
    """Answers `/classify`."""

    def __init__(self, discovery: Discovery, *, health: HealthBoard) -> None:
        self._discovery = discovery
        self._health = health
        self._waiting: deque[_Asked] = deque()
        self._bell = threading.Condition()
        self._stopping = False
        self._ended = False
        self._lone_of = discovery.served.classifier
        self._lone = LoneClassifier(self._lone_of)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = threading.Thread(target=self._run, name="attn-classify", daemon=True)

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Begin to answer callers on this loop."""
        self._loop = loop
        self._thread.start()

    def stop(self) -> None:
        """End the thread."""
        with self._bell:
            self._stopping = True
            self._bell.notify()
        if self._thread.ident is not None:
            self._thread.join()

    def at_once(self, question: Question) -> tuple[Manifold, str | None] | None:
        """The answer of a lone vector, in some 50 us where it is asked; None where `classify` has to say."""
        classifier = self._discovery.served.classifier
        if self._lone_of is not classifier:
            self._lone, self._lone_of = LoneClassifier(classifier), classifier
        if self._lone.num_prototypes > MOST_PROTOTYPES_AT_ONCE:
            return None
        row = checked(question.vector, question.context_len)
        if row is None:
            return None
        answer = self._lone.classify(
            row, context_len=question.context_len, sink_mass=question.sink_mass, periodicity=question.periodicity
        )
        return manifold_from_answer(*answer), classifier.run_id

    async def classify(self, question: Question) -> tuple[Manifold, str | None]:
        """The manifold of one vector and the run that says so; raises `InvalidFingerprint`."""
        asked = _Asked(question=question, answer=asyncio.get_running_loop().create_future())
        with self._bell:
            # Under the lock: a thread that is ending is still alive, and would never come back for this question.
            if self._ended:
                raise RuntimeError("the classifying thread ended")
            self._waiting.append(asked)
            self._bell.notify()
        return await asked.answer

    def _run(self) -> None:
        try:
            self._answer_until_stopped()
        finally:
            with self._bell:
                self._ended = True
                left = list(self._waiting)
            self._tell(left, [], None)
            if not self._stopping:
                reason = "the classifying thread ended: restart the sidecar, its log says why"
                self._health.ail(PART, reason, blocks=True)

    def _answer_until_stopped(self) -> None:
        while batch := self._next_batch():
            classifier = self._discovery.served.classifier
            answers: list[Manifold | InvalidFingerprint] = []
            try:
                answers = manifolds(classifier, [asked.question for asked in batch])
            finally:
                # Also where that failed: whoever waits is told, here with nothing, instead of waiting forever.
                self._tell(batch, answers, classifier.run_id)

    def _tell(self, batch: list[_Asked], answers: list[Manifold | InvalidFingerprint], run_id: str | None) -> None:
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._hand_out, batch, answers, run_id)

    def _next_batch(self) -> list[_Asked]:
        with self._bell:
            while not self._waiting and not self._stopping:
                self._bell.wait()
            return [self._waiting.popleft() for _ in range(min(len(self._waiting), MAX_QUESTIONS_A_BATCH))]

    @staticmethod
    def _hand_out(batch: list[_Asked], answers: list[Manifold | InvalidFingerprint], run_id: str | None) -> None:
        for asked in batch[len(answers) :]:
            if not asked.answer.done():
                asked.answer.set_exception(RuntimeError("the classifying thread ended"))
        for asked, answer in zip(batch, answers, strict=False):
            if asked.answer.done():
                continue
            if isinstance(answer, InvalidFingerprint):
                asked.answer.set_exception(answer)
            else:
                asked.answer.set_result((answer, run_id))
