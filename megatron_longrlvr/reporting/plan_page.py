"""A plan as one HTML page that needs no network and no script."""

from __future__ import annotations

import base64

from jinja2 import Environment, PackageLoader, StrictUndefined

from megatron_longrlvr.planner.plan import Plan
from megatron_longrlvr.reporting.plan_table import headline, summary

TEMPLATE = "plan.html"


def render_plan(plan: Plan, picture: bytes, *, origin: str, price: float | None) -> str:
    """Fill the template.

    Args:
        plan: To show.
        picture: PNG of it.
        origin: Where the architecture was read.
        price: Of a GPU for an hour, or None.
    """
    environment = Environment(
        loader=PackageLoader("megatron_longrlvr.reporting", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    page = environment.get_template(TEMPLATE).render(
        plan=plan,
        headline=headline(plan, origin),
        summary=summary(plan, price=price),
        problems=plan.problems(),
        picture=base64.b64encode(picture).decode("ascii"),
    )
    return page + "\n"
