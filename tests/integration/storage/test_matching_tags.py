"""Many tags are compared with their digests, by a listing of the bucket or, where it proves little, link by link."""

from __future__ import annotations

import hashlib
from urllib.parse import parse_qs, urlsplit

import pytest

from mirror.errors import StorageRefused
from mirror.oci.digest import Digest
from mirror.storage import layout
from mirror.storage.links import LinkStore
from tests.integration.storage.scripted_s3 import OpenBucket, Request, Response, ScriptedS3, error, in_sequence

DIGEST = Digest.of(b"an image")


def listing(*links: tuple[str, str], more: str = "") -> Response:
    """Return a page of a listing, of keys with ETags. *more* is the token of the next page."""
    found = "".join(
        f"<Contents><Key>prefix/{key}</Key><ETag>&quot;{etag}&quot;</ETag><Size>71</Size>"
        "<LastModified>2026-11-26T14:49:41.620Z</LastModified></Contents>"
        for key, etag in links
    )
    token = f"<IsTruncated>true</IsTruncated><NextContinuationToken>{more}</NextContinuationToken>" if more else ""
    return Response(200, f"<ListBucketResult>{found}{token}</ListBucketResult>".encode())


def current(number: int) -> str:
    return layout.tag_current_key("team/app", f"v{number:03}")


def etag(text: str) -> str:
    return hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()


def gets(server: ScriptedS3) -> tuple[list[str], list[str]]:
    """Return the continuation tokens of the listings, and the keys that were read."""
    queries = [parse_qs(urlsplit(r.path).query) for r in server.requests if "list-type" in r.path]
    read = [urlsplit(r.path).path.removeprefix("/images/prefix/") for r in server.requests if "list-type" not in r.path]
    return [query.get("continuation-token", [""])[0] for query in queries], sorted(read)


WANTED = {("team/app", f"v{number:03}"): DIGEST for number in range(40)}
RIGHT = etag(str(DIGEST))


def test_a_listing_is_read_on_while_its_pages_show_wanted_tags(scripted: OpenBucket) -> None:
    pages = [
        listing(*((current(number), RIGHT) for number in range(15)), more="second"),
        listing(*((current(number), RIGHT) for number in range(15, 40)), more="third"),
    ]
    bucket, server = scripted(in_sequence(*pages))
    assert LinkStore(bucket).matching(WANTED, timeout=10) == set(WANTED)
    assert gets(server) == (["", "second"], [])


def test_links_are_read_one_by_one_if_the_listing_shows_few_of_them(scripted: OpenBucket) -> None:
    """The tags have long histories, or the bucket encrypts with a key service and its ETags are no MD5s."""
    page = listing(
        *((current(number), RIGHT if number < 11 else etag("encrypted")) for number in range(40)), more="next"
    )

    def response(request: Request) -> Response:
        return page if "list-type" in request.path else Response(200, str(DIGEST).encode())

    bucket, server = scripted(response)
    assert LinkStore(bucket).matching(WANTED, timeout=10) == set(WANTED)
    assert gets(server) == ([""], [current(number) for number in range(11, 40)])


def test_a_listing_that_repeats_itself_ends(scripted: OpenBucket) -> None:
    page = listing(*((current(number), RIGHT) for number in range(15)), more="the same")
    bucket, server = scripted(in_sequence(page))
    with pytest.raises(StorageRefused):
        LinkStore(bucket).matching(WANTED, timeout=10)
    assert gets(server) == (["", "the same"], [])


def test_links_are_read_one_by_one_if_the_listing_has_no_etags(scripted: OpenBucket) -> None:
    page = "".join(f"<Contents><Key>prefix/{current(number)}</Key></Contents>" for number in range(40))

    def response(request: Request) -> Response:
        listed = f"<ListBucketResult>{page}</ListBucketResult>".encode()
        return Response(200, listed if "list-type" in request.path else str(DIGEST).encode())

    bucket, server = scripted(response)
    assert LinkStore(bucket).matching(WANTED, timeout=10) == set(WANTED)
    assert len(gets(server)[1]) == 40


def test_no_tag_matches_in_an_empty_listing(scripted: OpenBucket) -> None:
    bucket, _ = scripted(lambda q: listing() if "list-type" in q.path else error(404, "NoSuchKey"))
    assert LinkStore(bucket).matching(WANTED, timeout=10) == set()


def test_a_refused_listing_raises_its_error(scripted: OpenBucket) -> None:
    bucket, _ = scripted(in_sequence(error(403, "AccessDenied")))
    with pytest.raises(StorageRefused):
        LinkStore(bucket).matching(WANTED, timeout=10)
