"""The page's small modules against the package: words, matrices, schedules, random numbers, colours, blurs, links."""

import base64
import collections
import hashlib
import html
import io
import random
import re
import subprocess
import tarfile

import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter

import p2p_helpers as p2p
from p2p_helpers.errors import PromptError
from p2p_helpers.prompts.words import phrases
from p2p_helpers.toyland.world import vocabulary
from p2p_helpers.view.figures import word_colour

from .conftest import fast_tokenizers
from .playground import SOURCE, build, page_folder, served

sync_api = pytest.importorskip("playwright.sync_api")
from playwright._impl._driver import compute_driver_executable  # noqa: E402

ODD = ["cat's", "t-shirt", "7up", "Café", "İstanbul", "ẞ", "—", "“two”", "'stop'", "日本", "😀", "e\u0301te", "rock’n’roll"]  # fmt: skip
PAIRS, LEAST = 650, 500  # pairs of prompts; matrices of each kind of edit that are compared

MODULES = """async () => {
    const names = ["align", "blend", "colours", "edits", "engine", "errors", "places", "random", "settings", "tokens", "view"];
    const found = await Promise.all(names.map(name => import(`/${name}.js`)));
    window.m = Object.fromEntries(names.map((name, i) => [name, found[i]]));
    const { Tokenizer } = await import("/lib/tokenizers.min.mjs");
    const json = async name => (await fetch(`/model/${name}.json`)).json();
    window.tokenizer = new Tokenizer(await json("tokenizer"), await json("tokenizer_config"));
    window.read = prompt => new m.tokens.Reading(tokenizer, prompt, 32, "<|endoftext|>");
}"""
# How far the page's S and T are from those of Python, whose entries that are not zero are given.
COMPARED = """cases => cases.map(({ source, target, steps, cross, words, weights, s, t }) => {
    const { replace, refine, reweight, composed } = m.edits;
    let edit = { Replace: replace(cross), Refine: refine(cross), none: null }[words];
    if (weights) edit = edit ? composed(edit, reweight(weights, cross)) : reweight(weights, cross);
    let made;
    try { made = edit(read(source), read(target), steps) } catch (error) { return error.message }
    const far = [[made.s, s], [made.t, t]].map(([matrices, wanted]) => {
        const values = matrices.map(matrix => Float64Array.from(matrix.values));
        for (const [step, at, value] of wanted) values[step][at] -= value;
        return Math.max(...values.flatMap(one => [...one].map(Math.abs)));
    });
    return Math.max(...far);
})"""


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    """Where the page is, without a model."""
    with served(page_folder(tmp_path_factory.mktemp("playground"))) as found:
        yield found


@pytest.fixture(scope="module")
def modules(browser, address):
    """A page that has the modules."""
    page = browser.new_page()
    page.goto(f"{address}style.css")
    page.evaluate(MODULES)
    yield page
    page.close()


def sentences(count: int) -> list[tuple[str, str]]:
    """Pairs of prompts, most of them of known words and of equal length."""
    numbers, known = random.Random(0), [*vocabulary()]

    def word():
        return numbers.choice(ODD if numbers.random() < 0.1 else known)

    found = []
    while len(found) < count:
        source = [word() for _ in range(numbers.randint(1, 6))]
        target = [word() if numbers.random() < 0.4 else same for same in source]
        if numbers.random() < 0.2:
            target.insert(numbers.randint(0, len(target)), word())
        found.append((" ".join(source), " ".join(target)))
    return found


def sparse(matrices: torch.Tensor) -> list[list[float]]:
    """Step, place and value of what is not zero."""
    flat = matrices.flatten(1)
    steps, places = flat.nonzero(as_tuple=True)
    return list(zip(steps.tolist(), places.tolist(), flat[steps, places].tolist(), strict=True))


def cases_of(tokenizer, source: str, target: str, numbers: random.Random):
    """Five edits of two prompts, with what Python makes of them: S and T, or an error."""
    steps, share = numbers.randint(1, 6), round(numbers.random(), 2)
    phrase = numbers.choice(target.split())
    cross = numbers.choice([share, (share / 2, share), {"default": share, phrase: (0.1, 0.6)}])
    as_pairs = list(cross.items()) if isinstance(cross, dict) else cross
    weights = {phrase: numbers.choice([-2.0, 0.0, 2.5])}
    swap, refined = p2p.Replace(cross_steps=cross), p2p.Refine(cross_steps=cross)
    turned = p2p.Reweight(weights, cross_steps=cross)
    edits = (
        ("Replace", swap, None, source),
        ("Refine", refined, None, source),
        ("Replace", swap | turned, weights, source),
        ("Refine", refined | turned, weights, source),
        ("none", turned, weights, target),
    )
    for words, edit, weighed, start in edits:
        case = {"source": start, "target": target, "steps": steps, "cross": as_pairs}
        case |= {"words": words, "weights": weighed and list(weighed.items())}
        try:
            s, t = edit.matrices(tokenizer, start, target, steps)
            yield {**case, "s": sparse(s), "t": sparse(t)}
        except PromptError:
            yield {**case, "s": None, "t": None}


@fast_tokenizers
def test_every_edit_of_hundreds_of_prompt_pairs_has_pythons_matrices(modules, tokenizer):
    numbers = random.Random(1)
    cases = [
        case
        for source, target in sentences(PAIRS)
        for case in cases_of(tokenizer, source, target, numbers)
    ]
    compared, refused = collections.Counter(), 0
    for first in range(0, len(cases), 250):
        some = cases[first : first + 250]
        for case, far in zip(some, modules.evaluate(COMPARED, some), strict=True):
            if case["s"] is None:
                assert isinstance(far, str), case
                refused += 1
            else:
                assert far <= 1e-6, (case, far)
                compared[case["words"], case["weights"] is None] += 1
    assert len(compared) == 5 and min(compared.values()) >= LEAST, compared
    assert PAIRS / 10 < refused < PAIRS


@fast_tokenizers
@pytest.mark.parametrize("prompt", ["", "a snowman's  Watercolor", *ODD, "cat, dog!  'stop' it’s"])
def test_words_and_tokens_are_pythons(modules, tokenizer, prompt):
    found = modules.evaluate("prompt => ({ ...read(prompt) })", prompt)
    ids = tokenizer(prompt, padding="max_length", max_length=32)["input_ids"]
    assert found["ids"] == ids and found["end"] == tokenizer(prompt)["input_ids"].index(693)
    words = [(word.text, list(word.tokens)) for word in p2p.words(tokenizer, prompt)]
    normal = p2p.words(tokenizer, found["prompt"])
    assert [word["tokens"] for word in found["words"]] == [tokens for _, tokens in words]
    assert len(normal) == len(found["words"])


def test_a_prompt_that_is_too_long_says_what_would_be_lost(modules):
    said = modules.evaluate(
        "() => { try { read('cat '.repeat(30) + 'fox owl') } catch (error) { return error.message } }"
    )
    assert said.startswith("The prompt has 34 tokens") and "text encoder reads 32" in said
    assert "not see: fox owl" in said


@fast_tokenizers
@pytest.mark.parametrize(
    "prompt", ["a fox, A fox and a castle", "A fox and a castle", "a Cat, cat's CAT’S cat"]
)
def test_a_fader_turns_its_own_word_in_whatever_spelling(modules, tokenizer, prompt):
    found = modules.evaluate(
        """prompt => {
            const { words, phrases } = read(prompt);
            return phrases.map((phrase, i) => [phrase, read(prompt).find(phrase), words[i].tokens]);
        }""",
        prompt,
    )
    assert all(places == tokens for _, places, tokens in found)
    wanted = phrases(p2p.words(tokenizer, prompt))
    assert [one if isinstance(one, str) else tuple(one) for one, _, _ in found] == [*wanted]


@pytest.mark.parametrize(
    ("phrase", "target", "wanted"),
    [
        ("a", "A fox and a castle", [["A", 1], ["a", 2]]),
        (["A", 2], "a fox and a castle", [["a", 2]]),
        (["A", 1], "a fox", ["a"]),
        ("FOX", "a fox", ["fox"]),
        ("red fox", "a red fox", ["red fox"]),
    ],
)
def test_a_weight_goes_to_the_fader_of_its_word(modules, phrase, target, wanted):
    numbered = "([phrase, target]) => m.settings.numbered([[phrase, 2]], read(target))"
    assert modules.evaluate(numbered, [phrase, target]) == [[one, 2] for one in wanted]


def test_a_swap_of_unequal_sentences_is_not_said(modules):
    said = "prompts => m.view.alignedText(...prompts.map(read), [], true)"
    assert modules.evaluate(said, ["a cat", "a red cat"]) == ""
    assert modules.evaluate(said, ["a cat", "a dog"]) == "“dog” takes the place of “cat”."


def test_a_word_of_local_blend_is_in_neither_sentence(modules):
    said = modules.evaluate(
        """() => {
            const prompts = ["a cat", "a dog"].map(read);
            const blend = words => new m.blend.LocalBlend(words, ...prompts, { maps: [1, 1], latent: [1, 1, 1] });
            blend(["cat", "dog"]);
            try { blend(["cat", "owl"]) } catch (error) { return error.message }
        }"""
    )
    assert said.startswith("“owl” is not in either sentence. Local blend takes words of")


# How often a picture of one's own is inverted, by an engine whose model answers with zeros.
INVERTED = """async changes => {
    const zeros = (...shape) => new Float32Array(shape.reduce((a, b) => a * b));
    const rows = given => given.latents.dims[0];
    let inverted = 0;
    const sessions = {
        text: { run: async ({ tokens }) => ({ text: { data: zeros(...tokens.dims) } }) },
        unet: { run: async given => ({ noise: { data: zeros(rows(given)) }, maps: { data: zeros(rows(given), 32) } }) },
        encoder: { run: async () => ({ latents: { data: zeros(++inverted && 1) } }) },
        decoder: { run: async given => ({ pictures: { data: zeros(rows(given), 3) } }) },
    };
    class Tensor { constructor(_, data, dims) { Object.assign(this, { data, dims }) } }
    const noise = { prediction: "epsilon", offset: 0, alphas: [0.9, 0.5], final_alpha: 1 };
    const model = { latent: [1, 1, 1], picture: [1, 1], text: [32, 1], maps: [1, 1], self_pixels: 1, noise };
    const engine = new m.engine.Engine({ Tensor }, sessions, model, tokenizer, "<|endoftext|>");
    const first = { source: "a cat", target: "a dog", kind: "swap", cross: 1, self: 1, weights: [], seed: 1, steps: 2,
        guidance: 4, blend: [], free: true, picture: { id: "one", pixels: zeros(3) } };
    for (const change of changes) await engine.edit({ ...first, ...change }, async () => {});
    return inverted;
}"""


@pytest.mark.parametrize(
    ("change", "times"), [({"guidance": 7}, 1), ({"seed": 2}, 1), ({"source": "a fox"}, 2)]
)
def test_a_picture_of_ones_own_is_inverted_again_only_where_that_may_differ(modules, change, times):
    assert modules.evaluate(INVERTED, [{}, change]) == times


@pytest.mark.parametrize("seed", [0, 3, 2**32 - 1, 2**32 + 7, 2**52 + 1])
@pytest.mark.parametrize("count", [16, 37, 2048])
def test_random_numbers_are_torchs(modules, seed, count):
    wanted = torch.randn(count, generator=torch.Generator().manual_seed(seed)).numpy()
    found = modules.evaluate("([s, n]) => [...m.random.randn(s, n)]", [seed, count])
    np.testing.assert_allclose(found, wanted, atol=5e-6)


def test_schedules_count_as_python_does(modules):
    cases = [(share / 20, steps) for share in range(21) for steps in (1, 3, 10, 29, 30, 50)]
    for of in (None, 0):
        found = modules.evaluate(
            f"cases => cases.map(([share, steps]) => m.edits.activeSteps(share, steps{', steps' if of == 0 else ''}))",
            cases,
        )
        wanted = [
            p2p.active_steps(share, steps, of=steps if of == 0 else None).tolist()
            for share, steps in cases
        ]
        assert found == wanted


def test_a_word_has_the_colour_of_the_figures(modules):
    words = [*vocabulary(), "Cat", "the", "7up", "—"]
    found = modules.evaluate("words => words.map(m.colours.wordColour)", words)
    assert found == [word_colour(word) for word in words]


def test_soft_edges_are_pillows(modules):
    mask = np.random.default_rng(0).random((16, 16)) > 0.7
    large = Image.fromarray(mask).convert("L").resize((128, 128), Image.Resampling.NEAREST)
    wanted = np.asarray(large.filter(ImageFilter.GaussianBlur(4)), np.float32)
    given = np.asarray(large, np.float32).flatten().tolist()
    found = modules.evaluate(
        "values => [...m.blend.blurred(Float32Array.from(values), 128, 128, 4)]", given
    )
    assert np.abs(np.array(found).reshape(128, 128) - wanted).max() <= 1


SETTINGS = {
    "source": "a “cat” & a dog",
    "target": "a fox = 100 %",
    "kind": "refine",
    "cross": 0.35,
    "self": 0,
    "weights": [["fox", -2], [["a", 2], 1.5]],
    "seed": 2**52 + 1,
    "steps": 7,
    "guidance": 2.5,
    "blend": "cat, fox",
}


def test_a_link_says_everything_and_nonsense_in_it_does_no_harm(modules):
    again = "settings => m.settings.fromLink('#' + m.settings.toLink(settings))"
    assert modules.evaluate(again, SETTINGS) == SETTINGS
    first = modules.evaluate("m.settings.FIRST")
    wrong = "#seed=x&steps=1e9&weights=[[1,2]]&cross=NaN&kind=__proto__&guidance="
    found = modules.evaluate("hash => m.settings.fromLink(hash)", wrong)
    assert found == {**first, "steps": 100}
    numbers = '[[["dog",-1],2],[["dog",0],2],[["dog",1.5],2],[["dog",1],2]]'
    found = modules.evaluate("hash => m.settings.fromLink(hash)", f"#weights={numbers}")
    assert found["weights"] == [[["dog", 1], 2]]


def test_the_edit_that_is_written_down_is_read_by_python(modules):
    text = modules.evaluate("settings => m.settings.editText(settings)", SETTINGS)
    wanted = p2p.Refine(cross_steps=0.35, self_steps=0) | p2p.Reweight({"fox": -2, ("a", 2): 1.5})
    assert p2p.read_edit(text) == wanted


# Where the page computes, with engines that only take their time, and a graphics processor that is there or is played.
PLACED = """async ({ gpu, slow, broken, wanted, last }) => {
    const adapter = gpu && { info: { vendor: "acme", architecture: "one", isFallbackAdapter: gpu === "played" } };
    Object.defineProperty(navigator, "gpu", { configurable: true, value: { requestAdapter: async () => adapter } });
    const made = [];
    const make = async place => {
        made.push(place);
        if (broken.includes(place)) throw new Error("no such driver");
        if (broken.includes(`no ${place}`)) throw new TypeError("Failed to fetch dynamically imported module");
        const noise = [Float32Array.of(1, place === "webgpu" && broken.length ? { none: NaN, other: 3 }[broken[0]] : 2)];
        const run = () => new Promise(done => setTimeout(() => done({ noise }), place === slow ? 60 : 5));
        const sessions = { unet: { release: () => made.push(`-${place}`) } };
        return { model: { latent: [8, 2, 2], text: [3, 4] }, idle: [], run, sessions };
    };
    const found = await m.places.fastest(make, wanted, last, () => made.push("?"));
    return [found.place, made.join(" "), found.gpu];
}"""
ACME = '["acme","one",null,null]'


@pytest.mark.parametrize(
    ("gpu", "slow", "broken", "wanted", "place", "made"),
    [
        (None, "wasm", [], None, "wasm", "wasm"),
        ("played", "wasm", [], None, "wasm", "wasm"),
        (
            "real",
            "wasm",
            [],
            None,
            "webgpu",
            "wasm ? webgpu -wasm",
        ),  # the slower one gives back its memory
        ("real", "webgpu", [], None, "wasm", "wasm ? webgpu -webgpu"),
        ("real", "wasm", ["none"], None, "wasm", "wasm ? webgpu -webgpu"),  # fast and no numbers
        ("real", "wasm", ["other"], None, "wasm", "wasm ? webgpu -webgpu"),
        ("real", "wasm", ["webgpu"], None, "wasm", "wasm ? webgpu"),
        ("real", "webgpu", [], "webgpu", "webgpu", "? webgpu"),
        (None, "wasm", ["webgpu"], "webgpu", "wasm", "? webgpu wasm"),
    ],
)
def test_the_graphics_processor_computes_where_a_timed_step_is_faster(
    modules, gpu, slow, broken, wanted, place, made
):
    case = {"gpu": gpu, "slow": slow, "broken": broken, "wanted": wanted}
    name = ACME if gpu == "real" else None
    assert modules.evaluate(PLACED, case) == [place, made, name]


@pytest.mark.parametrize(
    ("gpu", "known", "place", "made"),
    [
        (None, None, "wasm", "wasm"),
        ("real", ACME, "wasm", "wasm"),
        ("real", None, "webgpu", "wasm ? webgpu -wasm"),
        ("real", '["acme","zero",null,null]', "webgpu", "wasm ? webgpu -wasm"),
    ],
)
def test_a_choice_is_made_again_when_the_graphics_processor_is_another(
    modules, gpu, known, place, made
):
    case = {"gpu": gpu, "slow": "wasm", "broken": [], "last": {"place": "wasm", "gpu": known}}
    assert modules.evaluate(PLACED, case)[:2] == [place, made]


def test_a_library_that_did_not_come_is_tried_again_the_next_time(modules):
    case = {"gpu": "real", "slow": "wasm", "broken": ["no webgpu"]}
    place, _, gpu = modules.evaluate(PLACED, case)
    assert (place, gpu) == ("wasm", "untried")
    again = {**case, "broken": [], "last": {"place": place, "gpu": gpu}}
    assert modules.evaluate(PLACED, again)[0] == "webgpu"


def test_only_what_did_not_come_is_called_a_fault_of_the_network(modules):
    messages = {
        "TypeError: Failed to fetch": True,
        "TypeError: Load failed": True,  # Safari
        "error loading dynamically imported module": True,  # Firefox
        "Failed to load model because protobuf parsing failed.": False,
    }
    found = modules.evaluate("all => all.map(one => m.errors.isLost(new Error(one)))", [*messages])
    assert found == [*messages.values()]


def test_the_choice_of_a_place_is_kept_and_one_of_an_older_page_is_not(modules):
    kept = "choice => { m.places.rememberChoice(choice); return m.places.lastChoice() }"
    choice = {"place": "webgpu", "gpu": ACME}
    assert modules.evaluate(kept, choice) == choice
    assert modules.evaluate(kept, None) is None
    assert modules.evaluate("localStorage.place = 'wasm', m.places.lastChoice()") is None


@pytest.mark.parametrize("scripts", [True, False])
def test_a_page_that_cannot_start_says_what_it_needs(browser, scripts):
    context = browser.new_context(java_script_enabled=scripts)
    page = context.new_page()
    page.goto((SOURCE / "index.html").as_uri())
    said = page.get_by_text("it needs JavaScript, and it needs a web server")
    sync_api.expect(said).to_be_visible()
    told = page.evaluate("matchMedia('(scripting: none)').matches")  # not each browser tells
    assert not (scripts and told)
    assert said.evaluate("said => getComputedStyle(said).animationName") == (
        "none" if told else "wait"
    )
    context.close()


def test_the_types_in_the_pages_comments_hold(tmp_path):
    folder = build.kept("typescript")
    if not folder.is_dir():
        pytest.skip("TypeScript is not here: python docs/playground/build.py --fetch")
    node, _ = compute_driver_executable()
    command = [node, folder / "tsc.js", "-p", SOURCE / "jsconfig.json"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_a_package_that_is_not_the_pinned_one_is_refused(tmp_path, monkeypatch):
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w:gz") as written:
        for name, text in (("package/dist/a.mjs", b"a"), ("package/other.js", b"b")):
            inside = tarfile.TarInfo(name)
            inside.size = len(text)
            written.addfile(inside, io.BytesIO(text))
    content = archive.getvalue()
    digest = base64.b64encode(hashlib.sha512(content).digest()).decode()
    package = {"version": "1.0.0", "sha512": digest, "files": ("dist/*.mjs",)}
    monkeypatch.setattr(build, "KEPT", tmp_path)
    monkeypatch.setattr(build, "PACKAGES", {"@one/toys": package})
    monkeypatch.setattr("urllib.request.urlopen", lambda *given, **more: io.BytesIO(content))
    build.fetch()
    assert [file.name for file in build.kept("@one/toys").iterdir()] == ["a.mjs"]
    assert list(tmp_path.iterdir()) == [tmp_path / "toys-1.0.0"]
    package |= {"version": "1.0.1", "sha512": "another"}
    with pytest.raises(SystemExit, match="is not the file that was pinned"):
        build.fetch()
    assert not build.kept("@one/toys").exists()


def test_every_link_of_the_page_leads_somewhere():
    page = (SOURCE / "index.html").read_text(encoding="utf-8")
    root = SOURCE.parent.parent
    for link in re.findall(r'href="\.\./([^"#]+)\.html"', page):
        assert [*root.glob(f"{link}.ipynb"), *root.glob(f"{link}.md")], link


def test_every_control_has_its_sentence():
    page = (SOURCE / "index.html").read_text(encoding="utf-8")
    sentences = re.findall(r'aria-describedby="([^"]+)"', page)
    assert len(sentences) == 8 and all(page.count(f'id="{name}"') == 1 for name in sentences)


def test_every_example_begins_an_edit_of_words_that_the_model_knows(modules):
    page = (SOURCE / "index.html").read_text(encoding="utf-8")
    links = [html.unescape(link) for link in re.findall(r'href="(#[^"]+)"', page)]
    found = modules.evaluate(
        """([links, known]) => links.map(link => {
            const { source, target, blend, ...settings } = m.settings.fromLink(link);
            const edit = m.engine.editOf({ ...settings, blend: m.settings.blendWords(blend) });
            const prompts = [read(source), read(target)];
            edit(...prompts, settings.steps);
            return prompts.flatMap(prompt => m.tokens.unknown(prompt, known));
        })""",
        [links, vocabulary()],
    )
    assert len(links) >= 5 and found == [[]] * len(links)
