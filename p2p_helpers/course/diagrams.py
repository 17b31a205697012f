"""The course's diagrams. Each function draws one; a notebook shows it as the last line of a cell."""

from __future__ import annotations

from .drawing import Drawing

CHAPTERS = {  # number → what it is about, and where it stands on the map
    "00": ("the problem", 20, 95),
    "01": ("word maps", 160, 95),
    "02": ("word swap", 300, 95),
    "03": ("add words", 455, 25),
    "04": ("turn words\nup and down", 455, 95),
    "05": ("keep the rest", 455, 165),
    "06": ("real pictures", 610, 25),
    "07": ("which inversion?", 610, 95),
    "08": ("your GPU", 765, 25),
    "09": ("transformers", 765, 95),
    "10": ("move things", 610, 165),
    "11": ("your own edit", 765, 165),
}
ROADS = "00-01 01-02 02-03 02-04 02-05 03-06 05-06 05-10 06-07 06-08 08-09 07-11 10-11"


def chapters(here: str | None = None) -> Drawing:
    """A map of the notebooks; `here` marks one, as "02"."""
    drawing = Drawing(
        905,
        245,
        "Map of the course: 00 to 02 in a row, then 03, 04 and 05 beside each other, then 06 with 07 and 08, "
        "09 for transformers, 10 for moving things, and 11 for an edit of one's own.",
    )
    wide, high = 120, 56
    for road in ROADS.split():
        (_, x, y), (_, to_x, to_y) = (CHAPTERS[number] for number in road.split("-"))
        if x == to_x:
            drawing.arrow((x + wide / 2, y + high), (to_x + wide / 2, to_y - 2))
        else:
            drawing.curve((x + wide, y + high / 2), (to_x - 3, to_y + high / 2))
    for number, (about, x, y) in CHAPTERS.items():
        kind = "marked" if number == here else "plain"
        drawing.box((x, y), (wide, high), "", kind)
        drawing.text((x + wide / 2, y + 13), f"**{number}**", kind)
        drawing.text((x + wide / 2, y + 36), about, kind, size=12)
    return drawing


def denoising() -> Drawing:
    """From noise to a picture: the loop that the prompt takes part in at every step."""
    drawing = Drawing(
        840,
        250,
        "The denoising loop: the prompt goes through the text encoder to the UNet, which removes a little "
        "noise from the latent at every step; the VAE turns the last latent into a picture.",
    )
    drawing.box((20, 145), (110, 60), "random noise\n(the seed)", "plain")
    drawing.box((190, 145), (100, 60), "latent\n16×16", "source")
    drawing.box((360, 135), (150, 80), "**UNet**\nguesses the noise", "marked")
    drawing.box((580, 145), (110, 60), "a little less\nnoise", "source")
    drawing.box((730, 145), (90, 60), "VAE:\npixels", "plain")
    drawing.box((190, 30), (130, 50), "“a fox in a forest”", "words")
    drawing.box((350, 30), (170, 50), "text encoder:\na vector for each token", "words")
    drawing.arrow((130, 175), (187, 175)).arrow((290, 175), (357, 175)).arrow(
        (510, 175), (577, 175)
    )
    drawing.arrow((690, 175), (727, 175)).arrow((320, 55), (347, 55)).arrow((435, 80), (435, 132))
    drawing.text((447, 106), "cross-attention, in every step", anchor="start")
    drawing.curve((635, 205), (437, 236), (240, 208))
    return drawing.text((520, 238), "20 to 50 times", anchor="start")


def unet() -> Drawing:
    """The UNet with its attention layers."""
    drawing = Drawing(
        760,
        270,
        "The UNet: three levels on the way down, three on the way up, each with layers of self-attention and "
        "cross-attention; the words' vectors go into every cross-attention layer.",
    )
    for step, side in enumerate((16, 8, 4)):
        y = 95 + 50 * step
        for x in (70 + 70 * step, 580 - 70 * step):
            drawing.box((x, y), (110, 40), "", "source")
            drawing.box((x + 8, y + 7), (40, 26), "self", "plain")
            drawing.box((x + 52, y + 7), (50, 26), "cross", "marked")
        drawing.text((40, y + 20), f"{side}×{side}")
        drawing.arrow((180 + 70 * step, y + 20), (577 - 70 * step, y + 20), dashed=True)
    drawing.text((380, 98), "skip connections")
    drawing.arrow((15, 72), (125, 72), (125, 92)).arrow((635, 92), (635, 72), (745, 72))
    drawing.text((60, 58), "noisy latent").text((700, 58), "guessed noise")
    drawing.arrow((160, 135), (205, 142)).arrow((230, 185), (275, 192)).arrow(
        (485, 192), (530, 185)
    ).arrow((555, 142), (600, 135))
    drawing.box((300, 20), (160, 38), "the words' vectors", "words")
    return drawing.text(
        (380, 255), "every cross layer looks at the words; every self layer looks at the picture"
    )


def attention() -> Drawing:
    """From queries, keys and values to a map and to what a pixel gets."""
    drawing = Drawing(
        820,
        250,
        "Attention: pixels give queries, words give keys and values; query times key and a softmax give the "
        "map, which mixes the values.",
    )
    drawing.box((20, 40), (110, 50), "pixels of\nthe latent", "source").box(
        (20, 150), (110, 50), "words", "words"
    )
    drawing.arrow((130, 65), (187, 65)).arrow((130, 165), (187, 145)).arrow((130, 185), (187, 205))
    drawing.box((190, 45), (90, 40), "queries Q", "source").box(
        (190, 122), (90, 40), "keys K", "words"
    ).box((190, 188), (90, 40), "values V", "words")
    drawing.arrow((280, 65), (347, 90)).arrow((280, 142), (347, 115))
    drawing.box((350, 75), (150, 55), "softmax(QKᵀ / √d)\nwho looks at whom", "plain")
    drawing.arrow((500, 102), (557, 102))
    values = [
        [0.1, 0.9, 0.1, 0.1],
        [0.1, 0.8, 0.2, 0.1],
        [0.2, 0.1, 0.1, 0.9],
        [0.1, 0.1, 0.2, 0.9],
    ]
    drawing.grid((560, 62), values, 20, "marked")
    drawing.text((600, 44), "the map A").text(
        (600, 156), "a row: one pixel\na column: one word", size=12
    )
    drawing.arrow((640, 102), (697, 102)).arrow((280, 208), (745, 208), (745, 132))
    return drawing.box((700, 75), (100, 55), "output\nA V", "target")


def two_runs() -> Drawing:
    """Word swap: two runs side by side, the second one borrows the first one's maps."""
    drawing = Drawing(
        800,
        270,
        "Two runs from the same noise: the source's attention maps replace the target's at every step, so "
        "the target keeps the layout and draws with its own values.",
    )
    drawing.box((20, 110), (90, 50), "the same\nnoise", "plain")
    for y, name, kind, prompt in (
        (40, "A_s", "source", "“a fox in a forest”"),
        (180, "A_t", "target", "“a castle in a forest”"),
    ):
        drawing.curve((110, 135), (157, y + 25))
        for number in range(3):
            x = 160 + 165 * number
            drawing.box((x, y), (120, 50), "", kind)
            drawing.text(
                (x + 60, y + 15), f"step {number + 1}" if number < 2 else "last step", kind, size=12
            )
            drawing.text((x + 60, y + 34), f"**maps {'Aₛ' if name == 'A_s' else 'Aₜ'}**", kind)
            if number < 2:
                drawing.arrow((x + 120, y + 25), (x + 162, y + 25))
        drawing.arrow((610, y + 25), (657, y + 25))
        drawing.box(
            (660, y), (120, 50), "source picture" if name == "A_s" else "edited picture", kind
        )
        drawing.text((380, y - 14 if name == "A_s" else y + 68), prompt, kind)
    for number in range(2):
        x = 220 + 165 * number
        drawing.arrow((x, 90), (x, 177))
        drawing.text((x + 8, 133), "lend the maps", anchor="start", size=12)
    return drawing


def matrices() -> Drawing:
    """An edit is two small matrices: what the target takes of the source's maps, and what it keeps of its own."""
    drawing = Drawing(
        760,
        215,
        "The edited maps are the source's maps times S plus the target's maps times T; S lines up old and "
        "new words, T keeps the target's own maps of added words.",
    )
    drawing.box((20, 70), (90, 60), "source's\nmaps Aₛ", "source").text((128, 100), "×", size=18)
    one = [[float(r == c) for c in range(5)] for r in range(4)]
    drawing.grid((150, 58), one, 20, "source").text((200, 40), "S: taken from the source", size=12)
    drawing.text((285, 100), "+", size=22)
    drawing.box((310, 70), (90, 60), "target's\nmaps Aₜ", "target").text((418, 100), "×", size=18)
    own = [[0.0] * 5 for _ in range(4)] + [[0, 0, 0, 0, 1.0]]
    drawing.grid((440, 48), own, 20, "target").text((490, 30), "T: kept of its own", size=12)
    drawing.text((568, 100), "=", size=22).box(
        (595, 65), (145, 70), "edited maps\nÂₜ = Aₛ S + Aₜ T", "marked"
    )
    return drawing.text(
        (380, 185), "a swapped word takes the old word's column; an added word keeps its own"
    )


def blend() -> Drawing:
    """Local blend in the loop: outside the words' mask the source's latent is put back after every step."""
    drawing = Drawing(
        760,
        250,
        "Local blend: after every step the target's latent is replaced by the source's wherever neither the "
        "old nor the new word looks.",
    )
    drawing.box((20, 40), (130, 46), "source's latent zₛ", "source").box(
        (20, 160), (130, 46), "target's latent z", "target"
    )
    drawing.box((195, 100), (172, 46), "maps of both words\n> 0.3 of the maximum", "words")
    drawing.arrow((367, 123), (427, 123))
    mask = [[0, 0, 0, 0, 0], [0, 1, 1, 0, 0], [0, 1, 1, 0, 0], [0, 1, 1, 0, 0], [0, 0, 0, 0, 0]]
    drawing.grid((430, 73), mask, 20, "marked").text((480, 190), "mask m", size=12)
    drawing.curve((150, 63), (470, 40), (607, 105)).curve((150, 183), (470, 215), (607, 145))
    drawing.arrow((530, 123), (607, 123)).box((610, 98), (135, 56), "z ← zₛ + m (z − zₛ)", "target")
    drawing.text((395, 22), "outside: the source").text((395, 232), "inside: the target")
    return drawing


def pivot() -> Drawing:
    """Inversion: the way to noise, and the way back with guidance, which drifts away from it."""
    drawing = Drawing(
        760,
        250,
        "Inversion walks from the picture to noise along the pivot; sampling back with guidance drifts away "
        "from it; null-text inversion bends every step back.",
    )
    drawing.box((20, 150), (100, 46), "picture z₀", "source").box(
        (640, 150), (100, 46), "noise z_T", "plain"
    )
    drawing.arrow((120, 173), (637, 173))
    drawing.text((380, 190), "the pivot: DDIM, backwards")
    drawing.curve((690, 148), (520, 105), (300, 55), (90, 32), dashed=True)
    drawing.text((330, 34), "back with guidance: every step drifts further", anchor="start")
    for x, y in ((565, 117), (435, 88), (300, 57)):
        drawing.arrow((x, y), (x, 168))
    return drawing.text(
        (380, 215), "null-text: an empty prompt for each step that leads back", size=12
    )


def away_from() -> Drawing:
    """Guidance pushes away from the empty text's guess; a null text that imitates the source moves that place."""
    drawing = Drawing(
        760,
        260,
        "Guidance goes from the empty text's guess through the target's and beyond. Where the null text "
        "imitates the source, it starts near the source's guess, and so goes in another direction.",
    )
    for left, title in ((0, "the empty text"), (380, "a null text that imitates the source")):
        drawing.text((left + 190, 22), f"**{title}**")
        drawing.box((left + 140, 55), (100, 36), "source: fox", "source")
        drawing.box((left + 190, 135), (110, 36), "target: panda", "target")
    drawing.box((25, 205), (80, 36), "nothing", "plain").arrow((105, 213), (188, 165))
    drawing.arrow((302, 148), (345, 128), dashed=True).text((330, 108), "guided")
    drawing.box((400, 205), (80, 36), "nothing", "plain")
    drawing.curve((440, 203), (525, 75), dashed=True).text((430, 130), "optimised", size=12)
    drawing.arrow((600, 93), (615, 132)).arrow((632, 173), (650, 225), dashed=True)
    return drawing.text((700, 225), "guided")


def joint_attention() -> Drawing:
    """Transformers: text and pixels in one sequence, with one attention for all."""
    drawing = Drawing(
        720,
        250,
        "Joint attention: text and pixels are one sequence of queries and keys; an edit changes only the "
        "block in which pixels look at text, and perhaps the one in which pixels look at pixels.",
    )
    drawing.box((50, 55), (110, 110), "pixels look", "source").box(
        (50, 175), (110, 50), "words look", "words"
    )
    for x, wide, label in ((170, 220, "at pixels"), (400, 150, "at words")):
        drawing.text((x + wide / 2, 36), label)
    drawing.box(
        (170, 55), (220, 110), "pixels at pixels\nself-attention:\nmay be lent, too", "target"
    )
    drawing.box(
        (400, 55), (150, 110), "**pixels at words**\nthe word maps:\nedits act here", "marked"
    )
    drawing.box((170, 175), (220, 50), "words at pixels", "plain").box(
        (400, 175), (150, 50), "words at words", "plain"
    )
    return drawing.text((570, 110), "one softmax\nover a whole row", anchor="start")
