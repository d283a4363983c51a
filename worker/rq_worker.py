"""RQ's forking worker, made to survive a Redis that is away or refuses to work, and to leave no orphan."""

from __future__ import annotations

import os
import signal
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Final

import structlog
from redis.exceptions import RedisError
from rq import Worker

from mirror.redis.failures import BRISK, RedisRetry
from worker import work_horse as horse
from worker.liveness import Liveness

if TYPE_CHECKING:
    from redis.client import Pipeline, PubSub, PubSubWorkerThread
    from rq.executions import Execution
    from rq.job import Job
    from rq.queue import Queue

_STOPPING: Final = {signal.SIGTERM, signal.SIGINT}
_PUBSUB_PAUSE: Final = 2.0
_LOG = structlog.get_logger(__name__)


class MirrorWorker(Worker):
    """One queue, one horse at a time.

    The connection retries every command until Redis does it, so RQ's own bookkeeping survives any outage. Once the
    worker is to stop, it does not wait for Redis any more. What else is added here: SIGTERM reaches the horse, the
    horse dies with its worker, and the main loop shows that it goes on.
    """

    liveness: Liveness | None = None

    def fork_work_horse(self, job: Job, queue: Queue) -> None:
        """Fork with the stop signals held back, so that none falls between the fork and the horse's own handlers."""
        held = signal.pthread_sigmask(signal.SIG_BLOCK, _STOPPING)
        self._parent_pid = os.getpid()
        try:
            super().fork_work_horse(job, queue)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, held)
        if self._stop_requested:
            self.handle_warm_shutdown_request()

    def setup_work_horse_signals(self) -> None:
        """In the horse: ignore Ctrl-C, which the worker answers; hand the task over on SIGTERM; die with the worker."""
        super().setup_work_horse_signals()  # type: ignore[no-untyped-call]  # RQ leaves it untyped
        horse.stop_on_sigterm()
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        horse.die_with(self._parent_pid)

    def subscribe(self) -> None:
        """Start RQ's thread for commands with the stop signals blocked: the main thread alone is to take them."""
        held = signal.pthread_sigmask(signal.SIG_BLOCK, _STOPPING)
        try:
            super().subscribe()  # type: ignore[no-untyped-call]  # RQ leaves it untyped
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, held)

    def handle_warm_shutdown_request(self) -> None:
        """On the first SIGTERM: tell the horse, which ends within seconds; RQ alone would wait for it without limit."""
        if retry := RedisRetry.of(self.connection):
            retry.update_retries(BRISK)
        super().handle_warm_shutdown_request()  # type: ignore[no-untyped-call]  # RQ leaves it untyped
        if self.horse_pid:
            try:
                os.kill(self.horse_pid, signal.SIGTERM)
            except ProcessLookupError:
                _LOG.debug("the work horse has ended by itself")

    def heartbeat(self, timeout: int | None = None, pipeline: Pipeline | None = None) -> None:
        """RQ's main loop calls this every few seconds, idle or with a horse at work."""
        super().heartbeat(timeout, pipeline)
        if self.liveness and not self.is_horse:
            self.liveness.beat("copying" if self.horse_pid else "idle")

    def maintain_heartbeats(self, job: Job, execution: Execution) -> None:
        """Miss a heartbeat rather than die of it: the task's own lease says whether it is alive."""
        try:
            super().maintain_heartbeats(job, execution)
        except RedisError as error:
            _LOG.warning("heartbeat missed; the work horse goes on", entry=job.id, kind=type(error).__name__)

    def set_shutdown_requested_date(self) -> None:
        """For RQ's dashboards only; called in a signal handler, which is no place for an error."""
        with suppress(RedisError):
            super().set_shutdown_requested_date()  # type: ignore[no-untyped-call]  # RQ leaves it untyped

    def teardown(self) -> None:
        """End in order also where Redis does not take note of it: its record of this worker expires."""
        try:
            super().teardown()  # type: ignore[no-untyped-call]  # RQ leaves it untyped
        except RedisError as error:
            _LOG.warning("Redis took no note of this worker's end", kind=type(error).__name__)
        if self.liveness and not self.is_horse:
            self.liveness.leave()

    def _pubsub_exception_handler(self, exc: Exception, pubsub: PubSub, pubsub_thread: PubSubWorkerThread) -> None:
        """Keep RQ's thread for commands alive over every error of Redis; RQ ends it at a timeout or a refusal."""
        if not isinstance(exc, RedisError):
            raise exc
        time.sleep(_PUBSUB_PAUSE)
