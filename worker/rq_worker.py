"""RQ's forking worker, made to survive a restart of Redis and to leave no orphan."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING, Final

import structlog
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError
from rq import Worker

from worker import horse

if TYPE_CHECKING:
    from rq.executions import Execution
    from rq.job import Job
    from rq.queue import Queue

_STOPPING: Final = {signal.SIGTERM, signal.SIGINT}
_LOG = structlog.get_logger(__name__)


class MirrorWorker(Worker):
    """One queue, one horse at a time.

    Commands to Redis are retried for about two minutes by the connection itself, which carries RQ's own bookkeeping
    over a restart. What is added here: a heartbeat that fails even so does not end a worker whose horse is at work
    (RQ would leave the horse orphaned), SIGTERM reaches the horse, and the horse dies with its worker.
    """

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
        super().handle_warm_shutdown_request()  # type: ignore[no-untyped-call]  # RQ leaves it untyped
        if self.horse_pid:
            try:
                os.kill(self.horse_pid, signal.SIGTERM)
            except ProcessLookupError:
                _LOG.debug("the work horse has ended by itself")

    def maintain_heartbeats(self, job: Job, execution: Execution) -> None:
        """Miss a heartbeat rather than die of it: the task's own lease says whether it is alive."""
        try:
            super().maintain_heartbeats(job, execution)
        except (RedisConnectionError, RedisTimeoutError):
            _LOG.warning("Redis does not answer; the work horse goes on", entry=job.id)
