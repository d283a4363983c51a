"""Build every collaborator once: the service, the worker, the scheduler and the tests all start here.

Building opens no connection. So a process may start while Redis or S3 is away, and a worker builds its core before it
forks its work horses, which inherit it and share no connection with it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime

from mirror.catalog.attest import Attester
from mirror.catalog.checked import CheckedTags
from mirror.catalog.confirm import Confirmer
from mirror.catalog.current_tags import CurrentTags
from mirror.catalog.delete import Deleter
from mirror.catalog.index import CatalogIndex, IndexRebuild
from mirror.catalog.publish import Publisher
from mirror.catalog.reader import CatalogReader
from mirror.catalog.rebuild import Rebuilder
from mirror.catalog.referrers import ReferrerLists
from mirror.catalog.registries import MirroredRegistries
from mirror.catalog.release import Releaser
from mirror.catalog.released_images import ReleasedImages
from mirror.catalog.relist import Relister
from mirror.catalog.retag import Retagger
from mirror.catalog.tag_change import TagChanges
from mirror.copying.cancellation import on_cancel, pause
from mirror.copying.copier import Copier
from mirror.copying.memory import MemoryBudget
from mirror.copying.referrers import ReferrerFinder
from mirror.copying.resolver import Resolver
from mirror.jobs.choose import Chooser
from mirror.jobs.claim import TaskClaimer, TaskSettler
from mirror.jobs.expand import Expander, UnchangedTags
from mirror.jobs.heartbeat import Heartbeats
from mirror.jobs.measure import SelectionMeter
from mirror.jobs.plan import ImagePlanner
from mirror.jobs.reconcile import Reconciler
from mirror.jobs.referrers import ReferrerCopier
from mirror.jobs.release import JobReleaser, StrandedReleases
from mirror.jobs.run import ImageCopier, TaskRunner
from mirror.jobs.signatures import SignatureRequirement
from mirror.jobs.storage_guard import StorageGuard
from mirror.jobs.submit import Submitter
from mirror.jobs.unchanged import ReferrerCheck
from mirror.locks.checkpoints import Checkpoints
from mirror.locks.lease import Leases
from mirror.locks.pins import Pins
from mirror.locks.tag_sequence import TagSequence
from mirror.queue import TaskQueue
from mirror.records.claims import ClaimStore
from mirror.records.fields import at
from mirror.records.followed import DriftPlans, FollowedTags
from mirror.records.jobs import JobStore
from mirror.records.observations import ObservationStore
from mirror.records.plans import PlanStore
from mirror.records.processes import LiveProcesses
from mirror.records.queued import QueuedTasks
from mirror.records.recovery import RecoveryStore
from mirror.records.runs import RunStore
from mirror.records.schedules import ScheduleStore
from mirror.records.selections import SelectionStore
from mirror.records.sync_file_status import SyncFileStatusStore
from mirror.records.targets import JobTargets
from mirror.redis.client import Redis, open_client
from mirror.redis.failures import BRISK
from mirror.registry.client import RegistryClient
from mirror.registry.throttle import Throttle
from mirror.schedules.converge import Converger
from mirror.schedules.deletions import Deletions, UpstreamDeleter
from mirror.schedules.drift import DriftReports
from mirror.schedules.file_credentials import FileCredentials
from mirror.schedules.follow import Follower
from mirror.schedules.runs import Runs
from mirror.schedules.schedules import Schedules
from mirror.schedules.survey import SurveyReader
from mirror.schedules.tick import Ticker
from mirror.schedules.watch import SyncFileWatcher
from mirror.settings import Settings
from mirror.signatures.attestation import Signer
from mirror.signatures.roots import TrustedRoots
from mirror.stewardship.upload_purge import UploadPurge
from mirror.storage.blobs import BlobStore, ManifestStore, min_part_for
from mirror.storage.bucket import Bucket
from mirror.storage.links import KeptStore, LinkStore
from mirror.storage.provenance import ProvenanceStore
from mirror.storage.releases import ReleaseJournals
from mirror.storage.tombstones import TombstoneStore
from mirror.throttling.aimd import AimdLimits
from mirror.throttling.circuit_breaker import CircuitBreaker
from mirror.throttling.limiter import Limiter
from mirror.throttling.pull_quota import PullQuota
from mirror.throttling.storage_breaker import StorageBreaker
from mirror.throttling.tolerance import Tolerance


@dataclass(frozen=True, slots=True)
class Core:
    """Everything that a process works with. Safe to share between its threads."""

    settings: Settings
    redis: Redis
    brisk_redis: Redis
    queue: TaskQueue
    bucket: Bucket
    leases: Leases
    processes: LiveProcesses
    throttle: Throttle
    storage_breaker: StorageBreaker
    source: RegistryClient
    resolver: Resolver
    blobs: BlobStore
    links: LinkStore
    kept: KeptStore
    index: CatalogIndex
    registries: MirroredRegistries
    reader: CatalogReader
    changes: TagChanges
    publisher: Publisher
    referrer_lists: ReferrerLists
    confirmer: Confirmer
    retagger: Retagger
    deleter: Deleter
    tombstones: TombstoneStore
    rebuilder: Rebuilder
    releaser: Releaser
    stranded_releases: StrandedReleases
    jobs: JobStore
    plans: PlanStore
    selections: SelectionStore
    claims: ClaimStore
    recovery: RecoveryStore
    queued: QueuedTasks
    submitter: Submitter
    schedules: Schedules
    ticker: Ticker
    converger: Converger
    sync_file_watcher: SyncFileWatcher | None
    file_credentials: FileCredentials | None
    follower: Follower
    drift_reports: DriftReports
    heartbeats: Heartbeats
    settler: TaskSettler
    claimer: TaskClaimer
    referrer_check: ReferrerCheck
    runner: TaskRunner
    reconciler: Reconciler
    upload_purge: UploadPurge

    def prepare(self) -> None:
        """Load what Redis needs before the first fork. Raises RedisUnavailable."""
        self.redis.prepare()
        self.brisk_redis.prepare()

    def close(self) -> None:
        """Give back the shares in registries' limits and close every connection."""
        self.throttle.limiter.close()
        self.source.close()
        self.redis.close()
        self.brisk_redis.close()
        self.queue.connection.close()
        self.bucket.close()


def build(
    settings: Settings,
    *,
    retries: int = BRISK,
    bucket: Bucket | None = None,
    sleep: Callable[[float], None] = pause,
    now: Callable[[], datetime] | None = None,
) -> Core:
    """Build the collaborators of one process.

    *retries* is how often a command is sent again while Redis is away. Throttles and signs of life do not wait for
    Redis, so theirs is always `BRISK`. *bucket* replaces the bucket of the settings, *sleep* the waits of the registry
    client, and *now* the wall clock by which schedules run. Raises InvalidSettings where Redis or the bucket is not
    named.
    """
    settings.require_stores()
    url = str(settings.redis_url)
    redis = Redis.connect(url, retries=retries)
    brisk = Redis.connect(url, retries=BRISK)
    queue = TaskQueue(open_client(url, retries=retries, decode_responses=False))
    bucket = bucket or Bucket.from_settings(settings)

    throttle = build_throttle(brisk, settings.registry_concurrency)
    file_credentials = FileCredentials(settings.sync_file, os.environ) if settings.sync_file else None
    source = RegistryClient.from_settings(
        settings,
        throttle=throttle,
        credentials=file_credentials.credential if file_credentials else None,
        sleep=sleep,
        on_cancel=on_cancel,
    )
    memory = MemoryBudget(settings.memory_budget)
    leases, pins, checkpoints = Leases(redis), Pins(redis), Checkpoints(redis)
    blobs = BlobStore(bucket, min_part=min_part_for(memory.limit))
    links, kept, provenance = LinkStore(bucket), KeptStore(bucket), ProvenanceStore(bucket)
    tombstones = TombstoneStore(bucket)
    copier = Copier(source, blobs, provenance, pins, leases, checkpoints, memory)
    resolver = Resolver(source, ManifestStore(blobs, provenance))
    finder = ReferrerFinder(source, lambda: at(redis.now()))

    index = CatalogIndex(redis)
    reader = CatalogReader(blobs, links, provenance)
    changes = TagChanges(leases, TagSequence(redis), CurrentTags(redis), links, index)
    publisher = Publisher(bucket.disk, changes, reader, blobs=blobs, links=links, kept=kept, provenance=provenance)
    relister = Relister(changes, reader, index, provenance)
    referrer_lists = ReferrerLists(
        changes, publisher, reader, relister, blobs=blobs, provenance=provenance, redis=redis
    )
    attester = None
    if settings.attestation_key:
        signer = Signer(settings.attestation_key, settings.attestation_verifier or settings.public_url)
        attester = Attester(signer, settings.public_host, referrer_lists, pins=pins, blobs=blobs, links=links)
    images = ReleasedImages(reader, index, relister, blobs=blobs, links=links, provenance=provenance, pins=pins)
    journals = ReleaseJournals(bucket)
    deleter = Deleter(bucket.disk, changes, reader, index, links=links, kept=kept, tombstones=tombstones)
    releaser = Releaser(redis, bucket.disk, leases, changes, images, links, journals)
    confirmer = Confirmer(changes, relister, index, CheckedTags(redis), links=links, kept=kept, provenance=provenance)

    jobs = JobStore(redis, retention=settings.job_retention)
    plans = PlanStore(redis, jobs)
    claims = ClaimStore(redis, queue.enqueue)
    recovery, queued = RecoveryStore(redis), QueuedTasks(redis)
    heartbeats = Heartbeats(claims, pins)
    storage_breaker = StorageBreaker(redis)
    storage_guard = StorageGuard(bucket, redis, storage_breaker)
    settler = TaskSettler(claims, storage_guard)
    selections = SelectionStore(redis, jobs)
    chooser = Chooser(source, ObservationStore(redis), lambda: at(redis.now()))
    referrers = ReferrerCopier(finder, resolver, copier, publisher, reader, changes, referrer_lists)
    signatures = SignatureRequirement(
        settings.signature_policies, TrustedRoots(settings.trusted_roots), finder, resolver, source
    )
    referrer_check = ReferrerCheck(finder, signatures)
    unchanged = UnchangedTags(source, changes, confirmer, referrer_check)
    meter = SelectionMeter(confirmer, resolver, copier)
    submitter = Submitter(jobs, queue, settings)
    schedule_records, runs = ScheduleStore(redis), RunStore(redis)
    now = now or schedule_records.now
    run_steps = Runs(schedule_records, runs, jobs, submitter, now)
    followed, surveys = FollowedTags(redis), SurveyReader(selections, index, settings.public_host)
    schedules = Schedules(schedule_records, runs, run_steps, submitter, followed, now)
    converger = Converger(schedules, SyncFileStatusStore(redis), now, settings.sync_file)
    upstream_deleter = UpstreamDeleter(source, changes, deleter, index)
    deletions = Deletions(followed, surveys, upstream_deleter, tombstones, now, settings.public_host)
    expander = Expander(chooser, selections, JobTargets(redis), unchanged, meter, queue, settings.public_host)
    return Core(
        settings=settings,
        redis=redis,
        brisk_redis=brisk,
        queue=queue,
        bucket=bucket,
        leases=leases,
        processes=LiveProcesses(brisk),
        throttle=throttle,
        storage_breaker=storage_breaker,
        source=source,
        resolver=resolver,
        blobs=blobs,
        links=links,
        kept=kept,
        index=index,
        registries=MirroredRegistries(redis),
        reader=reader,
        changes=changes,
        publisher=publisher,
        referrer_lists=referrer_lists,
        confirmer=confirmer,
        retagger=Retagger(
            settings.public_host,
            changes,
            publisher,
            reader,
            referrer_lists,
            provenance=provenance,
            pins=pins,
        ),
        deleter=deleter,
        tombstones=tombstones,
        rebuilder=Rebuilder(index, IndexRebuild(redis), relister, reader, links=links, provenance=provenance),
        releaser=releaser,
        stranded_releases=StrandedReleases(jobs, journals, releaser),
        jobs=jobs,
        plans=plans,
        selections=selections,
        claims=claims,
        recovery=recovery,
        queued=queued,
        submitter=submitter,
        schedules=schedules,
        ticker=Ticker(schedule_records, runs, run_steps, now),
        converger=converger,
        sync_file_watcher=SyncFileWatcher(settings.sync_file, converger) if settings.sync_file else None,
        file_credentials=file_credentials,
        follower=Follower(schedule_records, runs, run_steps, jobs, deletions, now),
        drift_reports=DriftReports(
            submitter, jobs, plans, DriftPlans(redis), leases, deletions, lambda: at(redis.now())
        ),
        heartbeats=heartbeats,
        settler=settler,
        claimer=TaskClaimer(claims, changes, confirmer, heartbeats, settler),
        referrer_check=referrer_check,
        runner=TaskRunner(
            settler,
            ImageCopier(confirmer, publisher, resolver, copier, referrers, signatures, storage_guard, attester),
            expander,
            ImagePlanner(confirmer, resolver, copier, plans),
            JobReleaser(jobs, images, releaser),
        ),
        reconciler=Reconciler(recovery, queued, jobs, queue, redis),
        upload_purge=UploadPurge(bucket, leases, checkpoints, jobs),
    )


def build_throttle(redis: Redis, concurrency: Mapping[str, int]) -> Throttle:
    """Build what all workers share to be gentle to registries. *concurrency* is the highest limit of some registries.

    *redis* should have few retries: a request waits while Redis is away.
    """
    tolerance = Tolerance()
    limiter = Limiter(AimdLimits(redis, concurrency))
    return Throttle(CircuitBreaker(redis, tolerance), limiter, PullQuota(redis, tolerance))
