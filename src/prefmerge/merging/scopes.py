"""What plans over one reading have in common: merged task vectors that differ in the scale at most, and scopes that one
rule serves.

Cost: none. Not here: who shares what (`engine`, `on_ray`).
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import replace

from prefmerge.merging.plan import Plan, PlannedTensor
from prefmerge.methods import Settings


def first_alike(plans: Sequence[Plan]) -> list[int]:
    """For each plan, the first whose merged task vectors are its own: one that differs in the scale at most."""
    firsts: list[int] = []
    for i, plan in enumerate(plans):
        same = (
            j
            for j in range(i)
            if firsts[j] == j
            and not plan.method.gives_model
            and plans[j].method.name == plan.method.name
            and replace(plans[j].settings, scale=plan.settings.scale) == plan.settings
        )
        firsts.append(next(same, i))
    return firsts


def prepared_alike(plans: Sequence[Plan]) -> list[int]:
    """For each of these plans, whose scope is the whole model, the first that one selection serves as well."""
    keys = [
        scope_of(plan, alike, plan.settings, plan.of_role("merge"))
        for plan, alike in zip(plans, first_alike(plans), strict=True)
    ]
    return [keys.index(key) for key in keys]


def scope_of(plan: Plan, alike: int, settings: Settings, entries: Sequence[PlannedTensor]) -> Hashable:
    """What the rule of a scope is prepared from. `alike`: as `first_alike` gives it."""
    of = ((entry.name, entry.stored_as) for entry in entries)
    return (plan.method.name, plan.method.prepared_from(settings) or alike, *of)
