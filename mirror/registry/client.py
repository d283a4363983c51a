"""The registry client: read manifests and blobs from registries we do not trust."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Self

from mirror.errors import ManifestUnknown
from mirror.http.address_guard import AddressGuard
from mirror.http.deadlines import OnCancel, never_canceled
from mirror.http.redirects import Redirects
from mirror.http.transport import Transport
from mirror.oci.descriptor import Descriptor
from mirror.oci.digest import Digest
from mirror.oci.reference import Reference, RepositoryPattern
from mirror.oci.referrer import Referrer, fallback_tag
from mirror.registry.auth import Authenticator, CredentialLookup
from mirror.registry.authorized_request import AuthorizedRequests
from mirror.registry.blobs import BlobRange, BlobResponse, BlobSource
from mirror.registry.credentials import Credential, DockerConfig
from mirror.registry.endpoints import Endpoints
from mirror.registry.listing import Listing
from mirror.registry.manifests import HeadSupport, ManifestHead, ManifestSource, RegistryManifests
from mirror.registry.pages import ListRequests
from mirror.registry.publishers import Publishers
from mirror.registry.pull_limit import PullAccounts
from mirror.registry.referrers import ReferrerSource
from mirror.registry.retry import Retries
from mirror.registry.throttle import Sleep, Throttle
from mirror.registry.token_server import TokenServers
from mirror.registry.vendors import VendorListings
from mirror.settings import ListingApi, Settings


class RegistryClient:
    """Reads any registry, with one pool of connections and one token per repository.

    Safe to share between threads. Before a request is sent, *throttle* may let it wait for a slot, or raise an error
    that parks its task: RegistryBusy, RegistryDown, RegistryFailing or QuotaExhausted. A lost connection and a 5xx are
    retried, in up to four attempts with full jitter. A 429 is retried once if it asks for at most 5 s, else RateLimited
    is raised. HEADs are retried only after a 429.

    Raises only `mirror.errors`, and what *sleep* raises to end a wait.
    """

    def __init__(
        self,
        transport: Transport,
        endpoints: Endpoints,
        find_credential: CredentialLookup,
        *,
        throttle: Throttle,
        realms: Mapping[str, frozenset[str]] | None = None,
        listing_apis: Mapping[str, ListingApi] | None = None,
        sleep: Sleep = time.sleep,
    ) -> None:
        redirects = Redirects(transport)
        tokens = TokenServers(transport, endpoints, realms or {})
        auth = Authenticator(transport, endpoints, redirects, tokens, find_credential)
        requests = AuthorizedRequests(endpoints, redirects, auth)
        self._transport = transport
        self._quota = throttle.quota
        self._sleep = sleep
        self._accounts = PullAccounts(throttle.quota, auth)
        self._retries = Retries(throttle.breaker, sleep)
        self._manifests = ManifestSource(
            requests, throttle.limiter, HeadSupport(throttle.breaker), self._accounts, self._retries, sleep
        )
        self._blobs = BlobSource(requests, redirects, throttle.limiter, sleep)
        self._publishers = Publishers(endpoints, redirects, throttle.limiter, self._retries, sleep)
        lists = ListRequests(throttle.limiter, self._retries, sleep)
        vendors = VendorListings(transport, redirects, endpoints, find_credential, listing_apis or {}, lists)
        self._listing = Listing(requests, vendors, lists)
        self._referrers = ReferrerSource(requests, self._listing, lists)

    @classmethod
    def from_settings(
        cls,
        settings: Settings,
        *,
        throttle: Throttle,
        credentials: CredentialLookup | None = None,
        sleep: Sleep = time.sleep,
        on_cancel: OnCancel = never_canceled,
    ) -> Self:
        """Build a client. It makes no connection and reads no file yet.

        *credentials* are looked up first, then those of the Docker configuration.
        *sleep* is called for every wait between attempts, and with 0 while a slot is waited for. It may raise to end
        the wait. *on_cancel* is passed a function that ends a wait for the registry.
        """
        config = DockerConfig(settings.docker_config).credential if settings.docker_config else None
        lookups = [lookup for lookup in (credentials, config) if lookup]
        return cls(
            Transport(AddressGuard(settings.allowed_networks), on_cancel=on_cancel),
            Endpoints.from_settings(settings),
            partial(_first_credential, lookups),
            throttle=throttle,
            realms=settings.token_realms,
            listing_apis=settings.listing_apis,
            sleep=sleep,
        )

    def head(self, reference: Reference) -> ManifestHead | None:
        """Return digest, media type and size of what the reference shows now, at no cost of quota.

        None if only a GET can find it. See `ManifestSource.head`.
        """
        return self._manifests.head(reference)

    def head_manifest(self, reference: Reference) -> Digest | None:
        """Return only the digest of `head`."""
        head = self.head(reference)
        return head.digest if head else None

    def reading(self, reference: Reference) -> RegistryManifests:
        """Return a reader of one image's manifests. It is a context manager."""
        return RegistryManifests(self._manifests, self._quota, self._accounts, self._retries, self._sleep, reference)

    def open_blob(
        self, reference: Reference, blob: Descriptor, *, offset: int = 0, length: int | None = None
    ) -> BlobResponse:
        """Open *length* bytes of a blob in the reference's repository from *offset* on.

        Without *length*, open all that follow. A server without ranges sends the whole blob: see the result's ``start``
        and ``length``. If the registry redirects to another origin, later ranges of the blob are read there directly
        while that works.

        The result holds a slot. A thread that has one open must not wait for another. Raises BlobUnknown, SizeInvalid
        if another size is announced, and what every request raises.
        """
        wanted = BlobRange.of(blob, offset, length)
        return self._retries.run(reference, partial(self._blobs.open_once, reference, blob, wanted))

    def open_url(self, url: str, blob: Descriptor, *, offset: int = 0, length: int | None = None) -> BlobResponse:
        """Open *length* bytes of a blob at a URL that its descriptor names, from *offset* on, as `open_blob` does.

        No login is sent there. Raises PlainHttpNotAllowed, SizeInvalid if another size is announced, and what every
        request raises.
        """
        return self._publishers.open_url(url, blob, BlobRange.of(blob, offset, length))

    def require_blob(self, reference: Reference, blob: Descriptor) -> None:
        """Raise BlobUnknown unless the reference's repository has the blob.

        A HEAD decides if its status is 200 or 404. Registries answer HEAD with other statuses where a GET works: the
        protocol's 405, or the 403 of a store whose URL was signed for GET alone. Then a GET of the first byte decides,
        and its failures are those of any blob. A size that the HEAD announces is not checked here.

        Raises BlobUnknown, Denied, and what every request raises.
        """
        if self._retries.run_optional(reference, partial(self._blobs.head_once, reference, blob)) is None:
            self.open_blob(reference, blob, length=min(1, blob.size)).close()

    def tags(self, repository: RepositoryPattern) -> Iterator[str]:
        """Yield each tag of a repository once, in the registry's order, while its pages arrive.

        Tags that break the grammar are left out and logged. If the iterator ends, the list is complete. If it is not,
        the iterator raises: RepositoryUnknown, Denied, ListingTooLarge for more than 100 000 tags, SourceFailed for a
        list that is damaged, cut off or circular, and what every request raises.
        """
        return self._listing.tags(repository)

    def repositories(self, pattern: RepositoryPattern) -> Iterator[str]:
        """Yield each repository that *pattern* includes once, while the pages of its registry arrive.

        Names that break the grammar are left out and logged. If the iterator ends, the list is complete, as far as the
        registry shows it to us. It may be empty. Raises ListingUnsupported, ListingDenied, RepositoryUnknown for an
        unknown namespace, ListingTooLarge for more than 10 000 repositories, and what `tags` raises.
        """
        return self._listing.repositories(pattern)

    def referrers(self, subject: Reference) -> tuple[Referrer, ...] | None:
        """Return what the registry lists as referrers of a digest, each once, in its order.

        None if the registry has no referrers API, or refuses it for this subject. Then the fallback tag of *subject*
        may list referrers. Entries of unknown media types are left out and logged.

        Raises ManifestInvalid or SizeInvalid for an entry that is no descriptor. Raises ListingTooLarge for more than
        1 000 entries or 8 MiB. Raises SourceFailed for a list that is damaged, cut off or circular, and what every
        request raises.
        """
        return self._referrers.of(subject)

    def referrer_tags(self, repository: Reference) -> frozenset[str] | None:
        """Return all tags of the reference's repository that may belong to referrers (`REFERRER_TAG`).

        None if the registry gives no complete list, or one of more than 10 pages: `tag_digest` finds each tag then. The
        tag and the digest of *repository* are not used. Raises what every request raises for a 429, a 5xx or a lost
        connection.
        """
        return self._referrers.tags(repository)

    def tag_digest(self, reference: Reference) -> Digest | None:
        """Return the digest that a tag shows. None if there is no such tag, for certain.

        A HEAD that names a digest is enough. After any other HEAD a GET decides, because a registry may answer a HEAD
        with a 404 although it has the tag. A fallback tag that shows its own subject reads as no tag: GitLab takes such
        a tag for the digest. Raises Unauthorized and Denied, and what `RegistryManifests.get` raises.
        """
        digest = self.head_manifest(reference)
        if digest is None:
            try:
                with self.reading(reference) as manifests:
                    digest = manifests.get(reference).digest
            except ManifestUnknown:
                return None
        return None if fallback_tag(digest) == reference.tag else digest

    def close(self) -> None:
        self._transport.close()


def _first_credential(lookups: Sequence[CredentialLookup], registry: str, repository: str) -> Credential | None:
    """Return the credential of the first lookup that has one."""
    found = (lookup(registry, repository) for lookup in lookups)
    return next((credential for credential in found if credential), None)
