"""What the votes of a study say: preferences, whether chance explains them, strengths, and how far voters agree."""

from __future__ import annotations

import importlib.util
import itertools
import json
from collections import Counter, defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..errors import InputError
from ..values import file_path
from .make import DOWNLOADED, read_key
from .server import read, stored

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Preference:
    """How often one method was preferred to another.

    Args:
        first, second: the methods.
        wins, losses, ties: votes for the first one, for the second, for neither.
        share: of the first one among the votes that chose, with its 95 % interval (Wilson 1927).
        p: probability of a share as far from a half, or further, if nobody had a preference (exact
            binomial test, two-sided).
    """

    first: str
    second: str
    wins: int
    losses: int
    ties: int
    share: float
    low: float
    high: float
    p: float


@dataclass(frozen=True)
class StudyResults:
    """The results of a study.

    Args:
        votes, voters: how many.
        preferences: one for each pair of methods.
        strengths: method → its strength by the model of Bradley and Terry (1952), as the logarithm of
            odds against the average method; ties count a half for each, and every pair has half a win
            more each way than was voted, which keeps the strength of a method that never lost finite.
        agreement: share of pairs of voters who chose the same in one comparison, and what chance
            would give for these votes; None where nobody judged the same.
    """

    votes: int
    voters: int
    preferences: list[Preference]
    strengths: dict[str, float]
    agreement: tuple[float, float] | None

    def __str__(self):
        lines = [f"{self.votes} votes of {self.voters} voters"]
        for one in self.preferences:
            lines.append(
                f"{one.first} over {one.second}: {one.share:.0%} ({one.low:.0%} to {one.high:.0%}) of "
                f"{one.wins + one.losses}, {one.ties} ties, p = {one.p:.2g}"
            )
        ranked = sorted(self.strengths.items(), key=lambda pair: -pair[1])
        lines.append("strengths: " + ", ".join(f"{name} {value:+.2f}" for name, value in ranked))
        if self.agreement is not None:
            seen, chance = self.agreement
            lines.append(
                f"two voters agree in {seen:.0%} of what both judged; by chance {chance:.0%}"
            )
        return "\n".join(lines)

    def plot(self) -> Figure:
        """Each pair's share with its interval, beside the line of no preference."""
        from matplotlib.figure import Figure

        figure = Figure(figsize=(7, 1 + 0.5 * len(self.preferences)), layout="constrained")
        axes = figure.subplots()
        for row, one in enumerate(self.preferences):
            axes.plot([one.low, one.high], [row, row], color="#b3005e", linewidth=3)
            axes.plot(one.share, row, "o", color="#b3005e", markersize=9)
        names = [f"{one.first} over {one.second}" for one in self.preferences]
        axes.set_yticks(range(len(names)), names)
        axes.axvline(0.5, color="#8a8a94", linestyle="--")
        axes.set_xlim(0, 1)
        axes.set_ylim(-0.6, len(names) - 0.4)
        axes.invert_yaxis()
        axes.set_xlabel("share of the votes that chose, with its 95 % interval")
        return figure


def study_results(folder: str | Path) -> StudyResults:
    """What the votes in a study's folder say: those that a server stored, and downloaded `votes-….json`.

    Raises:
        InputError: no study or a damaged one, no votes, a file that holds none of this study's, or SciPy is not installed.
    """
    place = file_path("folder", folder, "swaps")
    if importlib.util.find_spec("scipy") is None:
        raise InputError('The results of a study need SciPy: pip install "p2p-helpers[study]".')
    key = read_key(place)
    rows = {row[1:5]: row for row in stored(place) if row[0] == key["study"]}
    for file in sorted(place.glob(DOWNLOADED)):
        for vote in _downloaded(file):
            try:
                row = read(vote, key)
            except InputError as error:
                raise InputError(f"{file}: {error} Remove it.") from None
            rows.setdefault(row[1:5], row)
    if not rows:
        raise InputError(f"{place} holds no votes yet.")
    won: Counter[tuple[str, str]] = Counter()
    tied: Counter[tuple[str, str]] = Counter()
    asked = defaultdict(list)  # what was compared → the choices
    for _, _, item, a, b, chosen, _ in rows.values():
        first, second = key["items"][item][a], key["items"][item][b]
        asked[item, a, b].append(chosen)
        if chosen < 0:
            tied[first, second] += 1
        else:
            pair = (first, second) if chosen == a else (second, first)
            won[pair] += 1
    methods = sorted(set(itertools.chain(*key["items"])))
    preferences = [
        _preference(first, second, won, tied)
        for first, second in itertools.combinations(methods, 2)
    ]
    return StudyResults(
        len(rows),
        len({row[1] for row in rows.values()}),
        preferences,
        _strengths(methods, won, tied),
        _agreement(asked),
    )


def _downloaded(file: Path) -> list:
    """The votes in a file that a voter downloaded."""
    try:
        votes = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{file} cannot be read as votes: {error}. Ask its voter again.") from None
    if not isinstance(votes, list):
        raise InputError(f"{file} holds no list of votes. Ask its voter again.")
    return votes


def _preference(first: str, second: str, won: Counter, tied: Counter) -> Preference:
    from scipy.stats import binomtest

    wins, losses = won[first, second], won[second, first]
    ties = tied[first, second] + tied[second, first]
    if not wins + losses:
        return Preference(first, second, 0, 0, ties, float("nan"), 0.0, 1.0, 1.0)
    test = binomtest(wins, wins + losses)
    low, high = test.proportion_ci(method="wilson")
    share = wins / (wins + losses)
    if share < 0.5:  # the preferred one first
        first, second, wins, losses = second, first, losses, wins
        share, low, high = 1 - share, 1 - high, 1 - low
    return Preference(
        first, second, wins, losses, ties, share, float(low), float(high), float(test.pvalue)
    )


def _strengths(methods: list[str], won: Counter, tied: Counter) -> dict[str, float]:
    """The likeliest strengths of Bradley and Terry's model; half a win each way keeps them finite."""
    from scipy.optimize import minimize
    from scipy.special import expit, log_expit

    count = len(methods)
    wins = np.full((count, count), 0.5)
    for (i, first), (j, second) in itertools.permutations(enumerate(methods), 2):
        wins[i, j] += won[first, second] + (tied[first, second] + tied[second, first]) / 2
    np.fill_diagonal(wins, 0)

    def loss(strength):
        gaps = strength[:, None] - strength
        pull = wins * expit(-gaps)
        slope = pull.sum(0) - pull.sum(1)
        return -(wins * log_expit(gaps)).sum() + 1e-6 * (strength**2).sum(), slope + 2e-6 * strength

    found = minimize(loss, np.zeros(count), jac=True).x
    return {name: float(value) for name, value in zip(methods, found - found.mean(), strict=True)}


def _agreement(asked: dict[tuple, list[int]]) -> tuple[float, float] | None:
    """How often two voters chose the same, and how often two votes drawn from all of them would."""
    same = pairs = 0
    kinds: Counter[str] = Counter()
    for (_, a, _), choices in asked.items():
        for one, other in itertools.combinations(choices, 2):
            same += one == other
            pairs += 1
        kinds.update("tie" if c < 0 else "first" if c == a else "second" for c in choices)
    if not pairs:
        return None
    total = sum(kinds.values())
    return same / pairs, sum((n / total) ** 2 for n in kinds.values())
