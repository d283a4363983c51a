"""RQ's forking worker, changed so that it survives outages of Redis and leaves no orphaned process."""

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
from worker.liveness import Liveness
from worker.work_horse import die_with, stop_on_sigterm

if TYPE_CHECKING:
    from collections.abc import Callable

    from redis.client import Pipeline, PubSub, PubSubWorkerThread
    from rq.executions import Execution
    from rq.job import Job
    from rq.queue import Queue

_STOPPING: Final = {signal.SIGTERM, signal.SIGINT}
_PUBSUB_PAUSE: Final = 2.0
_LOG = structlog.get_logger(__name__)


class MirrorWorker(Worker):
    """Listens on the lanes of the queue and forks one work horse at a time.

    RQ takes an entry from several queues with BLPOP. If the worker dies before its work horse claims the task, the
    entry is lost, and the reconciler adds it again.

    The connection repeats every command until Redis executes it, so RQ's own records survive any outage. After a stop
    signal the worker does not wait for Redis any more. This class adds three things to RQ: SIGTERM reaches the work
    horse, the work horse dies with its worker, and the main loop shows that it goes on.
    """

    liveness: Liveness | None = None
    before_fork: Callable[[], None] | None = None

    def fork_work_horse(self, job: Job, queue: Queue) -> None:
        """Fork with the stop signals blocked, so that none arrives before the work horse has its own handlers."""
        if self.before_fork:
            self.before_fork()
        held = signal.pthread_sigmask(signal.SIG_BLOCK, _STOPPING)
        self._parent_pid = os.getpid()
        try:
            super().fork_work_horse(job, queue)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, held)
        if self._stop_requested:
            self.handle_warm_shutdown_request()

    def setup_work_horse_signals(self) -> None:
        """Set up the signals in the work horse.

        It ignores Ctrl-C, which its worker handles. On SIGTERM it hands its tasks over. It dies with its worker.
        """
        super().setup_work_horse_signals()  # type: ignore[no-untyped-call]  # RQ leaves it untyped
        stop_on_sigterm()
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        die_with(self._parent_pid)

    def subscribe(self) -> None:
        """Start RQ's thread for commands with the stop signals blocked, because only the main thread handles them."""
        held = signal.pthread_sigmask(signal.SIG_BLOCK, _STOPPING)
        try:
            super().subscribe()  # type: ignore[no-untyped-call]  # RQ leaves it untyped
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, held)

    def handle_warm_shutdown_request(self) -> None:
        """Pass the first SIGTERM on to the work horse, which then ends within seconds. RQ alone would only wait."""
        if retry := RedisRetry.of(self.connection):
            retry.update_retries(BRISK)
        super().handle_warm_shutdown_request()  # type: ignore[no-untyped-call]  # RQ leaves it untyped
        if self.horse_pid:
            try:
                os.kill(self.horse_pid, signal.SIGTERM)
            except ProcessLookupError:
                _LOG.debug("the work horse has ended by itself")

    def heartbeat(self, timeout: int | None = None, pipeline: Pipeline | None = None) -> None:
        """Show that the main loop goes on. RQ calls this every few seconds, idle or not."""
        super().heartbeat(timeout, pipeline)
        if self.liveness and not self.is_horse:
            self.liveness.beat("copying" if self.horse_pid else "idle")

    def maintain_heartbeats(self, job: Job, execution: Execution) -> None:
        """Survive an error of Redis. The leases of the tasks show whether they are worked on, not this heartbeat."""
        try:
            super().maintain_heartbeats(job, execution)
        except RedisError as error:
            _LOG.warning("heartbeat missed; the work horse goes on", entry=job.id, kind=type(error).__name__)

    def set_shutdown_requested_date(self) -> None:
        """Survive an error of Redis. Only RQ's dashboards use the date, and a signal handler must not raise."""
        with suppress(RedisError):
            super().set_shutdown_requested_date()  # type: ignore[no-untyped-call]  # RQ leaves it untyped

    def teardown(self) -> None:
        """End in order even if Redis is unavailable. RQ's record of this worker then expires."""
        try:
            super().teardown()  # type: ignore[no-untyped-call]  # RQ leaves it untyped
        except RedisError as error:
            _LOG.warning("the end of this worker could not be written to Redis", kind=type(error).__name__)
        if self.liveness and not self.is_horse:
            self.liveness.leave()

    def _pubsub_exception_handler(self, exc: Exception, pubsub: PubSub, pubsub_thread: PubSubWorkerThread) -> None:
        """Keep RQ's thread for commands alive after every error of Redis. RQ ends it after a timeout or a refusal."""
        if not isinstance(exc, RedisError):
            raise exc
        time.sleep(_PUBSUB_PAUSE)
