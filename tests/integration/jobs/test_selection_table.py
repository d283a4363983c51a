"""Every row of the table in docs/reference/selection.md, through the whole product, against a stock registry."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime

import pytest

from mirror.oci.reference import RepositoryPattern
from mirror.records.job_request import ImageRequest
from mirror.records.observations import ObservationStore
from mirror.records.rule_schemas import TAG_RULES
from tests.support import images
from tests.support.harness import Harness, mark_built
from tests.support.selection_table import (
    OF_ONE_PLATFORM,
    ROWS,
    TAGS,
    Row,
    created,
    first_seen_before,
    number_of,
)
from tests.support.servers import DockerRegistry
from tests.support.servers.s3 import RcloneS3

PLATFORMS = ("linux/amd64", "linux/arm64", "linux/arm/v7")
REPOSITORY = "selection/table"


@pytest.fixture
def s3_server(rclone_s3: RcloneS3) -> RcloneS3:
    """One is enough: the bucket plays no part in the choice."""
    return rclone_s3


def image_of(tag: str) -> images.TestImage:
    """Return the image of a tag: an index of three platforms, or a manifest."""
    number, moment = number_of(tag), created(tag)
    layer = images.layer(f"image {number}", 200)
    children = [(name, images.image(layer, platform=name, created=moment)) for name in PLATFORMS]
    return children[0][1] if tag in OF_ONE_PLATFORM else images.index(*children)


@pytest.fixture(scope="module")
def stock(docker_registry: DockerRegistry) -> DockerRegistry:
    """A stock registry with the forty tags."""
    for tag in TAGS:
        images.push(image_of(tag), docker_registry.url, REPOSITORY, tag)
    return docker_registry


@pytest.fixture
def table(stock: DockerRegistry, harness: Harness) -> Iterator[Harness]:
    with_stock = harness.with_settings(insecure_registries=frozenset({stock.host}))
    mark_built(with_stock.redis)
    yield with_stock
    with_stock.core.close()


@pytest.mark.parametrize("row", ROWS, ids=[row.id for row in ROWS])
def test_each_row_selects_and_mirrors_what_the_table_says(table: Harness, stock: DockerRegistry, row: Row) -> None:
    source = RepositoryPattern.parse(f"{stock.host}/{REPOSITORY}")
    observations, now = ObservationStore(table.redis), datetime.now(UTC)
    for tag in TAGS:
        observations.observe(source, {tag: image_of(tag).digest}, now - first_seen_before(tag))
    rules = TAG_RULES.load(row.with_digests({tag: str(image_of(tag).digest) for tag in TAGS}))
    request = ImageRequest(str(source), "table/{name}:{tag}", tags=rules)
    job = table.run_work_horses(table.core.submitter.submit([request])[0])
    assert (job.state, job.error) == ("succeeded", None)
    [expansion] = [task for task in table.jobs.tasks(job.id, 100) if task.spec.kind == "expand"]
    choices, _ = table.core.selections.choices(job.id, expansion.id, limit=100, after=None, selected=None)
    assert sorted(choice.name for choice in choices) == sorted(TAGS)
    assert sorted(choice.name for choice in choices if choice.rule is None) == sorted(row.selected)
    assert all(choice.detail for choice in choices if choice.rule)
    held = {tag for tag in TAGS if table.core.links.current("table/table", tag) is not None}
    assert held == set(row.selected)
    assert job.images.succeeded == len(row.selected)
