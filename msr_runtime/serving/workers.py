"""The threads that answer messages: adaptations have their own, so that they delay no observation.

An observation takes less than a millisecond, an adaptation may take seconds. So observations have a thread per
connection, and adaptations wait in one line for a few threads: one less than the processors. These threads also have a
lower priority, and pause for a moment before each inner step, so that the system runs an observation first.
"""

import asyncio
import logging
import math
import os
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from time import monotonic, perf_counter, sleep
from typing import Any, NamedTuple

from msr_runtime.errors import InputError, ServerError, WireError
from msr_runtime.serving.access import Limits
from msr_runtime.serving.policy import Policy, kind_of
from msr_runtime.serving.wire import decode, encode

_NICE = 5
"""By how much the threads of adaptations lower their priority, in steps of `nice`. With much more, a busy machine would
hardly run a thread that just then holds Python's interpreter lock, and all other threads would wait for it."""
_PAUSE = 1e-5
"""How long an adaptation pauses before each inner step, in s; the system's timer makes some 0.1 ms of it. Linux lets a
thread run until the next tick of its clock, up to 4 ms, though one of higher priority waits. The pause frees the
processor and Python's interpreter lock earlier. It does not wait for the observations to end: a client that asks
without a pause would hold up every adaptation."""
logger = logging.getLogger("msr_runtime.serving")


class Answer(NamedTuple):
    """The answer to one message."""

    kind: str
    """What the message asked for, one of `policy.KINDS`; `unknown` if that could not be read."""
    outcome: str
    """`ok`, `refused` (wrong input), `stopped` (before its end) or `failed` (an internal error)."""
    frame: bytes | str
    """What is sent: bytes for a reply, text for an error."""
    accepted: bool | None = None
    """Whether an adaptation was accepted; None for every other answer."""
    inside: bool = True
    """Whether the task of an adaptation may be one of the family."""


class Workers:
    """The threads of one server."""

    def __init__(self, limits: Limits) -> None:
        """Start no thread yet; threads start when they are needed."""
        self._seconds = limits.adapt_seconds
        # One thread per connection is enough, because a connection has one request at a time.
        self._answering = ThreadPoolExecutor(limits.connections, "msr-policy")
        self._adapting = ThreadPoolExecutor(max(1, _processors() - 1), "msr-adapt", _lower_priority)
        self._stop_at = math.inf

    async def run(self, work: Callable[[], Any]) -> Any:
        """Run `work` in a thread and return its result."""
        return await asyncio.get_running_loop().run_in_executor(self._answering, work)

    async def answer(
        self, policy: Policy, message: bytes | str, timing: dict[str, float], present: Callable[[], bool]
    ) -> Answer:
        """Answer one message.

        Args:
            policy: The policy of the client.
            message: The frame that the client sent.
            timing: What the reply says about the client's last request, in ms by name.
            present: Whether the client is still there. An adaptation asks before each inner step.
        """
        answer = await self.run(partial(self._answer, policy, message, timing))
        if isinstance(answer, Answer):
            return answer
        adapt = partial(self._adapt, policy, answer, timing, present)
        return await asyncio.get_running_loop().run_in_executor(self._adapting, adapt)

    def stop(self, seconds: float) -> None:
        """Let adaptations run on for `seconds` at most."""
        self._stop_at = monotonic() + seconds

    def end(self) -> None:
        """Wait until every thread has ended."""
        self._answering.shutdown()
        self._adapting.shutdown()

    def _answer(self, policy: Policy, message: bytes | str, timing: dict[str, float]) -> Answer | dict[str, Any]:
        """Answer one message. If it asks for an adaptation, return the decoded message instead."""
        kind = "unknown"
        try:
            if isinstance(message, str):
                raise WireError("a text frame came, but a request has to be a binary frame of msgpack")
            request = decode(message)
            kind = kind_of(request)
            if kind == "adapt":
                return request
            return _replied(kind, lambda: policy.answer(request), timing)
        except Exception as error:  # noqa: BLE001  every error gets an answer
            return _refused(kind, error)

    def _adapt(
        self, policy: Policy, request: dict[str, Any], timing: dict[str, float], present: Callable[[], bool]
    ) -> Answer:
        try:
            check = partial(self._check, present, monotonic() + self._seconds)
            return _replied("adapt", lambda: policy.answer(request, check), timing)
        except Exception as error:  # noqa: BLE001  every error gets an answer
            return _refused("adapt", error)

    def _check(self, present: Callable[[], bool], until: float) -> None:
        """Let observations run, then raise ServerError if an adaptation must not go on."""
        sleep(_PAUSE)
        now = monotonic()
        if not present():
            raise ServerError("the client left, so its adaptation was stopped")
        if now > self._stop_at:
            raise ServerError("the server is stopping, so the adaptation was stopped; the earlier weights act")
        if now > until:
            raise ServerError(
                f"the adaptation took more than {self._seconds:g} s, so it was stopped, and the earlier weights act; "
                "send fewer samples or steps; the option of `msr serve` is --limits.adapt-seconds"
            )


def _replied(kind: str, work: Callable[[], dict[str, Any]], timing: dict[str, float]) -> Answer:
    begin = perf_counter()
    reply = work()
    frame = encode(reply | {"server_timing": {"infer_ms": 1e3 * (perf_counter() - begin)} | timing})
    if kind != "adapt":
        return Answer(kind, "ok", frame)
    return Answer(kind, "ok", frame, reply["accepted"], reply["family"] is None or reply["family"]["inside"])


def _refused(kind: str, error: Exception) -> Answer:
    if isinstance(error, (WireError, InputError)):
        return Answer(kind, "refused", str(error))
    if isinstance(error, ServerError):
        return Answer(kind, "stopped", str(error))
    # a bug: the details go to the log, because the client may be a stranger
    logger.error("a request '%s' failed", kind, exc_info=error)
    return Answer(kind, "failed", "the server failed to answer because of an internal error; its log says why")


def _processors() -> int:
    """The number of processors that this process may use."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


def _lower_priority() -> None:
    """Lower the priority of this thread. Only Linux has a priority per thread that needs no rights."""
    if sys.platform == "linux":
        thread = threading.get_native_id()
        os.setpriority(os.PRIO_PROCESS, thread, os.getpriority(os.PRIO_PROCESS, thread) + _NICE)
