"""``/v1/plans``: read and list plans, and page through their images."""

from __future__ import annotations

from typing import Any, Final

from service.api.plans.document import image_document, plan_document
from service.api.plans.schema import PlannedImagePageSchema, PlannedImageQuery, PlanPageSchema, PlanSchema
from service.core import core
from service.http.blueprint import api_blueprint, header, refuses
from service.http.pagination import PageQuery, next_page

PLANS: Final = api_blueprint("plans", "What jobs would do, image by image, before they do it.")
_NEXT_PAGE: Final = header("The next page, RFC 8288.", '<…>; rel="next"')


@PLANS.get("/v1/plans")
@PLANS.arguments(PageQuery, location="query")
@PLANS.response(200, PlanPageSchema, headers={"Link": _NEXT_PAGE})
@refuses(PLANS, 401, 422, 503)
def list_plans(query: dict[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
    """List plans, the newest first."""
    limit = query["limit"]
    found, following = core().plans.page(limit=limit, before=query["cursor"])
    page = {"items": [plan_document(plan, images=0) for plan in found], "next": following}
    return page, next_page("plans.list_plans", limit=limit, after=following)


@PLANS.get("/v1/plans/<plan_id>")
@PLANS.response(200, PlanSchema)
@refuses(PLANS, 401, 404, 503)
def read_plan(plan_id: str) -> dict[str, Any]:
    """Read one plan, with its totals and its first images.

    POST /v1/jobs with its id applies it.
    """
    return plan_document(core().plans.read(plan_id))


@PLANS.get("/v1/plans/<plan_id>/images")
@PLANS.arguments(PlannedImageQuery, location="query")
@PLANS.response(200, PlannedImagePageSchema, headers={"Link": _NEXT_PAGE})
@refuses(PLANS, 401, 404, 422, 503)
def list_planned_images(query: dict[str, Any], plan_id: str) -> tuple[dict[str, Any], dict[str, str]]:
    """List the images of a plan, each with its action and the reason for it."""
    plan, limit, action = core().plans.read(plan_id), query["limit"], query["action"]
    found, following = core().plans.images(plan, limit=limit, after=query["cursor"], action=action)
    page = {"items": [image_document(task) for task in found], "next": following}
    return page, next_page("plans.list_planned_images", plan_id=plan_id, limit=limit, action=action, after=following)
