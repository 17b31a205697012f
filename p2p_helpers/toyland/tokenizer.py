"""The embedded model's tokenizer: byte-level BPE in CLIP's format, with a few words kept in several tokens on purpose."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

from .world import vocabulary

# Large models split rare words, and every edit must then line up tokens that differ in number. Here it happens too.
SPLIT_WORDS = {
    "snowman": ("snow", "man"),
    "mushroom": ("mush", "room"),
    "pumpkin": ("pump", "kin"),
    "butterfly": ("but", "ter", "fly"),
    "watercolor": ("wa", "ter", "color"),
    "sunflower": ("sun", "flower"),
    "strawberry": ("straw", "berry"),
}
MAX_TOKENS = 32  # positions, start and end tokens included


def _byte_alphabet() -> list[str]:
    """The 256 printable stand-ins for bytes used by byte-level BPE (Radford et al. 2019), in CLIP's order."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [b for b in range(256) if b not in printable]
    return [chr(b) for b in printable] + [chr(256 + i) for i in range(len(others))]


def _segment(word: str, ranks: dict[tuple[str, str], int]) -> list[str]:
    """Byte-pair encoding of one word: always join the pair that was learned first (Sennrich et al. 2016)."""
    tokens = [*word[:-1], word[-1] + "</w>"]
    while len(tokens) > 1:
        pair = min(pairwise(tokens), key=lambda p: ranks.get(p, len(ranks)))
        if pair not in ranks:
            break
        i = list(pairwise(tokens)).index(pair)
        tokens[i : i + 2] = ["".join(pair)]
    return tokens


def write_tokenizer(folder: Path):
    """Write `vocab.json` and `merges.txt`, which transformers' CLIPTokenizer loads.

    Each word of the world becomes one token, or the pieces in `SPLIT_WORDS`; any other text falls back to smaller pieces,
    in the end single bytes.
    """
    ranks: dict[tuple[str, str], int] = {}
    for word in sorted(vocabulary(), key=lambda w: w not in SPLIT_WORDS):
        pieces = [*SPLIT_WORDS.get(word, (word,))]
        pieces[-1] += "</w>"
        while (tokens := _segment(word, ranks)) != pieces:
            ends = {len("".join(pieces[:i])) for i in range(1, len(pieces))}
            inner = (i for i in range(1, len(tokens)) if len("".join(tokens[:i])) not in ends)
            i = next(inner)  # the first two neighbours that belong to one piece are joined next
            ranks[tokens[i - 1], tokens[i]] = len(ranks)
    alphabet = _byte_alphabet()
    tokens = [*alphabet, *(a + "</w>" for a in alphabet), *dict.fromkeys(a + b for a, b in ranks)]
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(
        json.dumps({t: i for i, t in enumerate(tokens)}, ensure_ascii=False), encoding="utf-8"
    )
    merges = "#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in ranks)
    (folder / "merges.txt").write_text(merges, encoding="utf-8")
