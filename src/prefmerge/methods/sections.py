"""A scope in sections: tensors that may lie on several machines, with one choice made over all of them.

    report = method.conduct(settings, ask, work)       ask(question, ...) -> the answer of every section, in order
    rule = section.rule(report)                        of each section, for its own tensors

A section has some tensors of the scope and what is known of their elements: masks, owners, thresholds. It answers with
counts, with sums that are not added up yet, or with the few values that an exact choice needs; never with all its
elements. `conduct` puts the answers together and decides. Sections are neighbours in the order of the scope's tensors,
so what hangs on that order is the same for any cut. Whole numbers are added; float sums are returned part by part,
and who asks adds them in order. So every cut gives the same bits. One machine is one section (`prepare`).

A section is a function of its tensors and of what it was asked. Where the machine that has it is lost, another one asks
the same again. Cost: on one machine a call for each question. Not here: where sections lie (`merging.in_sections`).
"""

from __future__ import annotations

import abc
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from prefmerge.methods.protocol import Deltas, Method, Report, Rule, Settings

if TYPE_CHECKING:
    from prefmerge.vectors.workspace import Workspace

Answer = TypeVar("Answer")


class Ask(Protocol):
    """Asks every section, and returns their answers in the order of their tensors."""

    def __call__(
        self, question: Callable[..., Answer], /, *given: Any, each: Sequence[Any] | None = None
    ) -> list[Answer]:
        """[question(section, *given) for every section]; with `each`, of which every section gets one,
        question(section, one, *given). A question is a method of a class of a module, or a function there, so that it
        can be sent.
        """
        ...


class ScopeSection(abc.ABC):
    """Some tensors of a scope. `inner`: what the questions of a selection are put to, while it goes on (`inside`)."""

    inner: Any = None

    @abc.abstractmethod
    def rule(self, report: Report) -> Rule:
        """What merges these tensors, when all is decided. `report`: of the whole scope."""


def alone(section: Any) -> Ask:
    """Asks one section, which is all."""

    def ask(question: Callable[..., Answer], /, *given: Any, each: Sequence[Any] | None = None) -> list[Answer]:
        return [question(section, *(() if each is None else each), *given)]

    return ask


def inside(ask: Ask) -> Ask:
    """Asks the `inner` of every section."""

    def asked(question: Callable[..., Answer], /, *given: Any, each: Sequence[Any] | None = None) -> list[Answer]:
        if each is None:
            return ask(_inner, question, *given)
        return ask(_inner_with, question, *given, each=each)

    return asked


def _inner(section: ScopeSection, question: Callable[..., Answer], *given: Any) -> Answer:
    return question(section.inner, *given)


def _inner_with(section: ScopeSection, one: Any, question: Callable[..., Answer], *given: Any) -> Answer:
    return question(section.inner, one, *given)


class InSections(Method):
    """A method whose scopes may be cut into sections."""

    @abc.abstractmethod
    def section(self, tensors: Sequence[Deltas], settings: Settings, work: Workspace) -> ScopeSection:
        """These tensors of a scope, of which nothing was read yet."""

    @abc.abstractmethod
    def conduct(self, settings: Settings, ask: Ask, work: Workspace) -> Report:
        """Ask the sections of a scope until each knows how to merge its tensors. `work`: of the machine that asks."""

    def prepare(self, tensors: Sequence[Deltas], settings: Settings, work: Workspace) -> Rule:
        section = self.section(tensors, settings, work)
        return section.rule(self.conduct(settings, alone(section), work))
