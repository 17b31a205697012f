"""What belongs together in a prompt: the words that a prompt says of one object."""

from __future__ import annotations

from collections.abc import Sequence

_DETERMINERS = """
a an the this that these those one two three four five six seven eight nine ten some any no several many few each every both all
another my your his her its our their
"""
_JOINS = """
and or but nor of in on at by to from for with without into onto inside outside within upon atop over under above below beneath
underneath behind before after between among amid beside besides near along alongside across through throughout around against
toward towards beyond during next like as while where when who which whose is are has have
"""
DETERMINERS = frozenset(_DETERMINERS.split())  # what is said of an object begins with them
JOINS = frozenset(_JOINS.split())  # what stands between two objects
_PAUSES = frozenset(",.;:!?…()[]{}|&+-–—")
_DOINGS = """
wearing holding carrying riding driving chasing catching eating drinking watching playing pulling pushing hugging using making throwing
kicking facing touching
"""
_VERBS = frozenset(_DOINGS.split())  # what an object does to another one


def names_nothing(word: str) -> bool:
    """Whether a word is no object and says nothing of one."""
    is_small = word.lower() in DETERMINERS | JOINS
    return is_small or not any(map(str.isalnum, word))


def noun_phrases(said: Sequence[str]) -> list[list[int]]:
    """The words that are said of one object, and so on for each: ["a", "red", "cat"] and ["the", "beach"] of "a red cat on the beach".

    Words that join objects, and punctuation but quotes, belong to none; nor do a few verbs that stand between two, as in "a dog wearing
    sunglasses". No dictionary is asked: other verbs, as in "a dog chases cats", are not known from nouns, and of "a black and white
    cat" the first colour is a phrase of its own.

    Args:
        said: the words of a prompt.

    Returns:
        Positions of words, in the prompt's order.
    """
    words = [word.lower() for word in said]
    found: list[list[int]] = [[]]
    for place, word in enumerate(words):
        named = any(not names_nothing(words[n]) for n in found[-1])
        if word in JOINS or (word in _VERBS and named) or _pauses(words, place):
            found.append([])
            continue
        if word in DETERMINERS and named:
            found.append([])
        found[-1].append(place)
    return [phrase for phrase in found if phrase]


def _pauses(words: Sequence[str], place: int) -> bool:
    """Whether a word is a comma or the like, but not the point of 3.5."""
    before, after = "".join(words[:place])[-1:], "".join(words[place + 1 :])[:1]
    in_number = before.isdigit() and after.isdigit()
    return bool(_PAUSES & set(words[place])) and not in_number
