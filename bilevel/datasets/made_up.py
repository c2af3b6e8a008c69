"""Made-up sentences from a small grammar: texts of several domains that need no file."""

import random
from collections.abc import Sequence
from typing import TypeAlias, TypeVar

from bilevel.datasets.base import Card, TextDataset, text_dataset

T = TypeVar("T")
Words: TypeAlias = Sequence[Sequence[str]]  # of praise and of blame

_SENTENCES = 600  # per domain
_SHARED = 0.6  # probability that a judgment is a word that all domains share
_SLIP = 0.08  # probability that a clause says the opposite of the label
_NOISE = 0.03  # probability that a label is wrong

# Words of praise and of blame that all domains share.
_JUDGMENTS = (
    "good great excellent wonderful lovely fine superb perfect brilliant pleasant delightful amazing nice splendid "
    "fantastic terrific impressive charming satisfying outstanding",
    "bad awful terrible horrible poor dreadful disappointing nasty annoying mediocre useless unpleasant lousy pathetic "
    "miserable frustrating dismal disgusting inferior appalling",
)
# For each domain: its things, its words of praise, its words of blame. Some words praise in one domain and blame in
# another.
_DOMAINS = {
    "books": (
        "plot chapter author prose ending novel character story hero page",
        "gripping moving witty profound long unpredictable",
        "tedious shallow dry predictable thin confusing",
    ),
    "kitchen": (
        "kettle pan blender knife toaster oven lid handle mixer pot",
        "sharp sturdy heavy hot quick spotless",
        "blunt rusty leaky flimsy greasy slow",
    ),
    "phones": (
        "screen battery camera keyboard charger speaker signal button menu handset",
        "light thin crisp responsive small long",
        "laggy blurry heavy scratched dim hot",
    ),
    "hotels": (
        "room bed breakfast lobby pool shower view staff balcony corridor",
        "quiet spacious clean cosy central warm",
        "noisy dirty small cramped cold smelly",
    ),
    "films": (
        "scene actor script director cast camera score finale dialogue sequel",
        "funny haunting dark touching unpredictable suspenseful",
        "corny long wooden forgettable silly slow",
    ),
    "restaurants": (
        "soup waiter dessert menu sauce salad steak wine table chef",
        "tasty fresh spicy crisp hot generous",
        "bland stale cold greasy salty burnt",
    ),
    "music": (
        "song album singer drum chorus melody guitar lyric record concert",
        "catchy soulful raw loud slow warm",
        "flat monotonous shallow whiny muffled quick",
    ),
    "shoes": (
        "sole lace heel boot leather toe strap sandal lining trainer",
        "comfortable light sturdy soft waterproof warm",
        "stiff tight thin squeaky slippery loud",
    ),
}
_OPENINGS = ("", "honestly ", "well , ", "i must say ", "after a week , ", "my sister says ", "in short , ", "again ")
_CLAUSES = (
    "the {thing} is {degree}{word}",
    "the {thing} was {degree}{word}",
    "i found the {thing} {degree}{word}",
    "this {thing} seems {degree}{word}",
    "{degree}{word} {thing}",
    "the {thing} , {word}",
)
_DEGREES = ("", "", "very ", "quite ", "really ", "rather ")
_LINKS = (" and ", " , and ", " ; also ", " , while ")

CARDS = {
    "made-up": Card(
        "made-up",
        rows=_SENTENCES * len(_DOMAINS),
        classes=2,
        splits=dict.fromkeys(_DOMAINS, _SENTENCES),
        license="the package's own",
        source="made up: drawn from a small grammar of this package",
    )
}


class _Dice:
    """Draws from `random.Random.random`, the one method whose sequence Python promises not to change."""

    def __init__(self) -> None:
        self._random = random.Random(0).random

    def choose(self, options: Sequence[T]) -> T:
        return options[int(self._random() * len(options))]

    def happens(self, probability: float) -> bool:
        return self._random() < probability


def load(name: str) -> TextDataset:
    """`"made-up"`: 600 sentences per domain of 8 domains, always the same; half of them praise (label 1), half blame.

    A sentence has one to three clauses, each with a thing of the domain and a judgment. 60 % of the judgments are words
    that all domains share; the others belong to the domain, and some of these praise in one domain and blame in
    another. A clause says the opposite of the label with probability 0.08, and 3 % of the labels are wrong. The
    sentences teach nothing about language.
    """
    dice = _Dice()
    rows = []
    shared = [words.split() for words in _JUDGMENTS]
    for domain, vocabulary in enumerate(_DOMAINS.values()):
        things, *own = (words.split() for words in vocabulary)
        for i in range(_SENTENCES):
            label = i % 2
            clauses = [_clause(dice, label, things, own, shared) for _ in range(dice.choose((1, 2, 2, 3)))]
            text = clauses[0]
            for clause in clauses[1:]:
                text += dice.choose(_LINKS) + clause
            text = f"{dice.choose(_OPENINGS)}{text} ."
            rows.append((domain, len(rows), 1 - label if dice.happens(_NOISE) else label, text))
    return text_dataset(rows, tuple(_DOMAINS), CARDS[name])


def _clause(dice: _Dice, label: int, things: Sequence[str], own: Words, shared: Words) -> str:
    blames = (label == 0) != dice.happens(_SLIP)
    word = dice.choose((shared if dice.happens(_SHARED) else own)[blames])
    return dice.choose(_CLAUSES).format(thing=dice.choose(things), degree=dice.choose(_DEGREES), word=word)
