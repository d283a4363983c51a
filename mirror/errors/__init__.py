"""The errors that a user can meet, in one tree.

    MirrorError
    ├── InvalidInput:           the request can never succeed as it is (HTTP 422)
    │   ├── InvalidReference:       NAME_INVALID
    │   ├── InvalidTag:             TAG_INVALID
    │   ├── InvalidDigest:          DIGEST_INVALID
    │   ├── NameTooLong:            NAME_TOO_LONG
    │   ├── TargetReserved:         TARGET_RESERVED
    │   ├── TargetRepeated:         TARGET_REPEATED
    │   ├── JobTooLarge:            JOB_TOO_LARGE
    │   ├── TargetsInvalid:         TARGETS_INVALID
    │   ├── NoRepositoryFound:      NO_REPOSITORY_FOUND
    │   ├── InvalidTemplate:        TEMPLATE_INVALID
    │   ├── ReleaseTooLarge:        RELEASE_TOO_LARGE
    │   ├── ClientUnknown:          CLIENT_UNKNOWN
    │   ├── FallbackUnavoidable:    FALLBACK_UNAVOIDABLE
    │   ├── RegexUnavailable:       REGEX_UNAVAILABLE
    │   ├── SelectionTooLarge:      SELECTION_TOO_LARGE
    │   ├── NoTagSelected:          NO_TAG_SELECTED
    │   ├── TrustedRootUnavailable: TRUSTED_ROOT_UNAVAILABLE
    │   ├── DocumentMalformed:      FILE_INVALID
    │   └── SyncFileInvalid:        FILE_INVALID
    ├── SourceError:            the source registry, or its response
    │   ├── SourceUnreachable:      SOURCE_UNREACHABLE
    │   ├── RegistryDown:           SOURCE_UNREACHABLE
    │   ├── RegistryFailing:        SOURCE_FAILED
    │   ├── RegistryBusy:           REGISTRY_BUSY
    │   ├── SourceFailed:           SOURCE_FAILED
    │   │   ├── PlainHttpNotAllowed:    PLAIN_HTTP_NOT_ALLOWED
    │   │   └── TlsExpected:            TLS_EXPECTED
    │   ├── CertificateInvalid:     CERTIFICATE_INVALID
    │   ├── SourceTooSlow:          SOURCE_FAILED
    │   ├── AddressNotAllowed:      ADDRESS_NOT_ALLOWED
    │   ├── RealmNotAllowed:        REALM_NOT_ALLOWED
    │   ├── CredentialsUnavailable: CREDENTIALS_UNAVAILABLE
    │   ├── Unauthorized:           UNAUTHORIZED
    │   ├── Denied:                 DENIED
    │   ├── RateLimited:            TOOMANYREQUESTS
    │   ├── QuotaExhausted:         TOOMANYREQUESTS
    │   ├── ManifestUnknown:        MANIFEST_UNKNOWN
    │   ├── PlatformUnknown:        PLATFORM_UNKNOWN
    │   ├── BlobUnknown:            BLOB_UNKNOWN
    │   ├── ForeignLayerUnavailable: FOREIGN_LAYER_UNAVAILABLE
    │   ├── RepositoryUnknown:      NAME_UNKNOWN
    │   ├── ListingUnsupported:     LISTING_UNSUPPORTED
    │   ├── ListingDenied:          LISTING_DENIED
    │   ├── ListingTooLarge:        LISTING_TOO_LARGE
    │   ├── AnswerTruncated:        ANSWER_TRUNCATED
    │   └── AnswerTooLarge:         ANSWER_TOO_LARGE
    ├── ContentError:           the bytes are not what their description says
    │   ├── ManifestInvalid:        MANIFEST_INVALID
    │   ├── MediaTypeUnsupported:   MEDIA_TYPE_UNSUPPORTED
    │   ├── DigestMismatch:         DIGEST_MISMATCH
    │   ├── SizeInvalid:            SIZE_INVALID
    │   └── SignatureRequired:      SIGNATURE_REQUIRED
    ├── NotHeld:                the mirror does not have it (HTTP 404)
    │   ├── RepositoryNotHeld:      NAME_UNKNOWN
    │   ├── ImageNotHeld:           MANIFEST_UNKNOWN
    │   ├── BlobNotHeld:            BLOB_UNKNOWN
    │   ├── NoRegistryMirrored:     NO_REGISTRY_MIRRORED
    │   ├── JobUnknown:             JOB_UNKNOWN
    │   ├── TaskUnknown:            TASK_UNKNOWN
    │   ├── PlanUnknown:            PLAN_UNKNOWN
    │   ├── ScheduleUnknown:        SCHEDULE_UNKNOWN
    │   └── RunUnknown:             RUN_UNKNOWN
    ├── Conflict:               the target's state does not allow the request
    │   ├── JobFinished:            JOB_FINISHED
    │   ├── JobUnfinished:          JOB_UNFINISHED
    │   ├── JobSucceeded:           JOB_SUCCEEDED
    │   ├── PlanUnfinished:         PLAN_UNFINISHED
    │   ├── PlanEmpty:              PLAN_EMPTY
    │   ├── PlanTooLarge:           PLAN_TOO_LARGE
    │   ├── ScheduleExists:         SCHEDULE_EXISTS
    │   ├── ScheduleFromFile:       SCHEDULE_FROM_FILE
    │   ├── ScheduleBusy:           SCHEDULE_BUSY
    │   ├── ScheduleChanged:        PRECONDITION_FAILED
    │   ├── RunUnfinished:          RUN_UNFINISHED
    │   ├── ReleaseSuperseded:      RELEASE_SUPERSEDED
    │   ├── ReleaseIncomplete:      RELEASE_INCOMPLETE
    │   ├── ReleaseBusy:            RELEASE_BUSY
    │   ├── PreconditionFailed:     PRECONDITION_FAILED
    │   ├── TagDrifted:             TAG_DRIFTED
    │   ├── ManifestInUse:          MANIFEST_IN_USE
    │   ├── ReferrersTagTaken:      REFERRERS_TAG_TAKEN
    │   ├── TooManyReferrers:       TOO_MANY_REFERRERS
    │   ├── SyncFileWatched:        SYNC_FILE_WATCHED
    │   ├── TagBusy:                TAG_BUSY
    │   ├── BlobBusy:               BLOB_BUSY
    │   └── BlobBeingDeleted:       BLOB_BEING_DELETED
    ├── Unavailable:            a part of the mirror does not work (HTTP 503)
    │   ├── MemoryBusy:             MEMORY_BUSY
    │   ├── StorageUnavailable:     STORAGE_UNAVAILABLE
    │   │   └── StorageFull:            STORAGE_FULL
    │   ├── StorageRefused:         STORAGE_REFUSED
    │   ├── StorageDamaged:         STORAGE_DAMAGED
    │   ├── RedisUnavailable:       REDIS_UNAVAILABLE
    │   └── CatalogRebuilding:      CATALOG_REBUILDING
    ├── WorkerLost:                 WORKER_LOST
    └── InternalError:              INTERNAL_ERROR

There is one module per family. Families that several modules share, such as `Conflict`, are in `base`. The attributes
of `MirrorError` and `SourceError` say what a caller needs to know about an error: whether to retry, when, and why.
"""

from __future__ import annotations

from mirror.errors.base import (
    LONGEST_REST,
    Conflict,
    InternalError,
    MirrorError,
    NotHeld,
    Unavailable,
    listed,
    quoted,
)
from mirror.errors.catalog import (
    BlobBeingDeleted,
    BlobBusy,
    BlobNotHeld,
    CatalogRebuilding,
    ImageNotHeld,
    ManifestInUse,
    NoRegistryMirrored,
    PreconditionFailed,
    ReferrersTagTaken,
    RepositoryNotHeld,
    TagBusy,
    TagDrifted,
    TooManyReferrers,
)
from mirror.errors.content import (
    ContentError,
    DigestMismatch,
    ManifestInvalid,
    MediaTypeUnsupported,
    SignatureRequired,
    SizeInvalid,
)
from mirror.errors.input import (
    ClientUnknown,
    DocumentMalformed,
    FallbackUnavoidable,
    InvalidDigest,
    InvalidInput,
    InvalidReference,
    InvalidTag,
    InvalidTemplate,
    JobTooLarge,
    NameTooLong,
    NoRepositoryFound,
    NoTagSelected,
    RegexUnavailable,
    SelectionTooLarge,
    TargetRepeated,
    TargetReserved,
    TargetsInvalid,
    TrustedRootUnavailable,
)
from mirror.errors.jobs import (
    JobFinished,
    JobSucceeded,
    JobUnfinished,
    JobUnknown,
    MemoryBusy,
    PlanEmpty,
    PlanTooLarge,
    PlanUnfinished,
    PlanUnknown,
    ReleaseBusy,
    ReleaseIncomplete,
    ReleaseSuperseded,
    ReleaseTooLarge,
    TaskUnknown,
    WorkerLost,
)
from mirror.errors.schedules import (
    FileProblem,
    RunUnfinished,
    RunUnknown,
    ScheduleBusy,
    ScheduleChanged,
    ScheduleExists,
    ScheduleFromFile,
    ScheduleUnknown,
    SyncFileInvalid,
    SyncFileWatched,
)
from mirror.errors.source import (
    AddressNotAllowed,
    AnswerTooLarge,
    AnswerTruncated,
    BlobUnknown,
    CertificateInvalid,
    CredentialsUnavailable,
    Denied,
    ForeignLayerUnavailable,
    ListingDenied,
    ListingTooLarge,
    ListingUnsupported,
    ManifestUnknown,
    PlainHttpNotAllowed,
    PlatformUnknown,
    QuotaExhausted,
    RateLimited,
    RealmNotAllowed,
    RegistryBusy,
    RegistryDown,
    RegistryFailing,
    RepositoryUnknown,
    SourceError,
    SourceFailed,
    SourceTooSlow,
    SourceUnreachable,
    TlsExpected,
    Unauthorized,
)
from mirror.errors.storage import (
    RedisUnavailable,
    StorageDamaged,
    StorageFull,
    StorageRefused,
    StorageUnavailable,
)

__all__ = [
    "LONGEST_REST",
    "AddressNotAllowed",
    "AnswerTooLarge",
    "AnswerTruncated",
    "BlobBeingDeleted",
    "BlobBusy",
    "BlobNotHeld",
    "BlobUnknown",
    "CatalogRebuilding",
    "CertificateInvalid",
    "ClientUnknown",
    "Conflict",
    "ContentError",
    "CredentialsUnavailable",
    "Denied",
    "DigestMismatch",
    "DocumentMalformed",
    "FallbackUnavoidable",
    "FileProblem",
    "ForeignLayerUnavailable",
    "ImageNotHeld",
    "InternalError",
    "InvalidDigest",
    "InvalidInput",
    "InvalidReference",
    "InvalidTag",
    "InvalidTemplate",
    "JobFinished",
    "JobSucceeded",
    "JobTooLarge",
    "JobUnfinished",
    "JobUnknown",
    "ListingDenied",
    "ListingTooLarge",
    "ListingUnsupported",
    "ManifestInUse",
    "ManifestInvalid",
    "ManifestUnknown",
    "MediaTypeUnsupported",
    "MemoryBusy",
    "MirrorError",
    "NameTooLong",
    "NoRegistryMirrored",
    "NoRepositoryFound",
    "NoTagSelected",
    "NotHeld",
    "PlainHttpNotAllowed",
    "PlanEmpty",
    "PlanTooLarge",
    "PlanUnfinished",
    "PlanUnknown",
    "PlatformUnknown",
    "PreconditionFailed",
    "QuotaExhausted",
    "RateLimited",
    "RealmNotAllowed",
    "RedisUnavailable",
    "ReferrersTagTaken",
    "RegexUnavailable",
    "RegistryBusy",
    "RegistryDown",
    "RegistryFailing",
    "ReleaseBusy",
    "ReleaseIncomplete",
    "ReleaseSuperseded",
    "ReleaseTooLarge",
    "RepositoryNotHeld",
    "RepositoryUnknown",
    "RunUnfinished",
    "RunUnknown",
    "ScheduleBusy",
    "ScheduleChanged",
    "ScheduleExists",
    "ScheduleFromFile",
    "ScheduleUnknown",
    "SelectionTooLarge",
    "SignatureRequired",
    "SizeInvalid",
    "SourceError",
    "SourceFailed",
    "SourceTooSlow",
    "SourceUnreachable",
    "StorageDamaged",
    "StorageFull",
    "StorageRefused",
    "StorageUnavailable",
    "SyncFileInvalid",
    "SyncFileWatched",
    "TagBusy",
    "TagDrifted",
    "TargetRepeated",
    "TargetReserved",
    "TargetsInvalid",
    "TaskUnknown",
    "TlsExpected",
    "TooManyReferrers",
    "TrustedRootUnavailable",
    "Unauthorized",
    "Unavailable",
    "WorkerLost",
    "listed",
    "quoted",
]
