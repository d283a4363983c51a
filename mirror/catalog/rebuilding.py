"""Rebuilding the index from the bucket, when Redis has lost it or never had it."""

from __future__ import annotations

from collections.abc import Callable

import structlog

from mirror.catalog.index import CatalogIndex
from mirror.catalog.publishing import Publisher
from mirror.errors import MirrorError, RedisUnavailable, StorageRefused, StorageUnavailable, TagBusy
from mirror.storage.links import LinkStore

_LOG = structlog.get_logger(__name__)


def rebuild(index: CatalogIndex, links: LinkStore, publisher: Publisher, *, alive: Callable[[], bool]) -> bool:
    """List every tag of the bucket, and nothing else; False if *alive* said to stop before the end.

    Each tag is read and listed under its own lease, so that publishing goes on meanwhile and no change is lost: a tag
    that moves before we come is listed as it is then, one that moves after us is listed by whoever moves it. A tag
    whose image cannot be read is left out and logged, and does not keep the others from being listed.
    """
    seen = 0
    for repository, tag in [*links.tags(), *index.listed()]:
        if not alive():
            return False
        try:
            publisher.relist(repository, tag)
        except (StorageUnavailable, StorageRefused, RedisUnavailable, TagBusy):
            raise
        except MirrorError as error:
            _LOG.error("tag cannot be listed", image=f"{repository}:{tag}", code=error.code, reason=error.message)
        seen += 1
    index.mark_built()
    _LOG.info("index built from the bucket", tags=seen)
    return True
