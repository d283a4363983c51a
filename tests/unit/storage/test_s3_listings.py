"""What the links of many tags are taken for, by one listing and, where that says too little, by themselves."""

from __future__ import annotations

import hashlib
from urllib.parse import parse_qs, urlsplit

import pytest

from mirror.errors import StorageRefused
from mirror.oci.digest import Digest
from mirror.storage import layout
from mirror.storage.links import LinkStore
from tests.unit.storage.scripted_s3 import Answer, OpenBucket, Request, ScriptedS3, error, in_turn

DIGEST = Digest.of(b"an image")


def listing(*links: tuple[str, str], more: str = "") -> Answer:
    """A page of a listing, of keys with ETags; *more* is the token of the next."""
    found = "".join(
        f"<Contents><Key>prefix/{key}</Key><ETag>&quot;{etag}&quot;</ETag><Size>71</Size>"
        "<LastModified>2026-11-26T14:49:41.620Z</LastModified></Contents>"
        for key, etag in links
    )
    told = f"<IsTruncated>true</IsTruncated><NextContinuationToken>{more}</NextContinuationToken>" if more else ""
    return Answer(200, f"<ListBucketResult>{found}{told}</ListBucketResult>".encode())


def current(number: int) -> str:
    return layout.tag_current_key("team/app", f"v{number:03}")


def etag(text: str) -> str:
    return hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()


def gets(server: ScriptedS3) -> tuple[list[str], list[str]]:
    """The continuation tokens of the listings, and the keys that were read."""
    queries = [parse_qs(urlsplit(r.path).query) for r in server.requests if "list-type" in r.path]
    read = [urlsplit(r.path).path.removeprefix("/images/prefix/") for r in server.requests if "list-type" not in r.path]
    return [query.get("continuation-token", [""])[0] for query in queries], sorted(read)


WANTED = {("team/app", f"v{number:03}"): DIGEST for number in range(40)}
RIGHT = etag(str(DIGEST))


def test_a_listing_is_read_on_while_its_pages_tell_of_tags_that_are_wanted(scripted: OpenBucket) -> None:
    pages = [
        listing(*((current(number), RIGHT) for number in range(15)), more="second"),
        listing(*((current(number), RIGHT) for number in range(15, 40)), more="third"),
    ]
    bucket, server = scripted(in_turn(*pages))
    assert LinkStore(bucket).showing(WANTED, timeout=10) == set(WANTED)
    assert gets(server) == (["", "second"], [])


def test_a_listing_that_tells_of_little_is_left_for_the_links_themselves(scripted: OpenBucket) -> None:
    """As of tags with long histories, or in a bucket whose ETags are no MD5s since it encrypts with a key service."""
    page = listing(
        *((current(number), RIGHT if number < 11 else etag("encrypted")) for number in range(40)), more="next"
    )

    def answer(request: Request) -> Answer:
        return page if "list-type" in request.path else Answer(200, str(DIGEST).encode())

    bucket, server = scripted(answer)
    assert LinkStore(bucket).showing(WANTED, timeout=10) == set(WANTED)
    assert gets(server) == ([""], [current(number) for number in range(11, 40)])


def test_a_listing_that_comes_again_and_again_ends(scripted: OpenBucket) -> None:
    page = listing(*((current(number), RIGHT) for number in range(15)), more="the same")
    bucket, server = scripted(in_turn(page))
    with pytest.raises(StorageRefused):
        LinkStore(bucket).showing(WANTED, timeout=10)
    assert gets(server) == (["", "the same"], [])


def test_a_listing_without_etags_shows_nothing_by_itself(scripted: OpenBucket) -> None:
    page = "".join(f"<Contents><Key>prefix/{current(number)}</Key></Contents>" for number in range(40))

    def answer(request: Request) -> Answer:
        listed = f"<ListBucketResult>{page}</ListBucketResult>".encode()
        return Answer(200, listed if "list-type" in request.path else str(DIGEST).encode())

    bucket, server = scripted(answer)
    assert LinkStore(bucket).showing(WANTED, timeout=10) == set(WANTED)
    assert len(gets(server)[1]) == 40


def test_an_empty_listing_shows_nothing(scripted: OpenBucket) -> None:
    bucket, _ = scripted(lambda q: listing() if "list-type" in q.path else error(404, "NoSuchKey"))
    assert LinkStore(bucket).showing(WANTED, timeout=10) == set()


def test_a_listing_that_is_refused_says_so(scripted: OpenBucket) -> None:
    bucket, _ = scripted(in_turn(error(403, "AccessDenied")))
    with pytest.raises(StorageRefused):
        LinkStore(bucket).showing(WANTED, timeout=10)
