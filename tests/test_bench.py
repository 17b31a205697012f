"""PIE-Bench: its folder read right, its measures true, and a run that can be killed anywhere."""

import json
import multiprocessing
import os

import numpy as np
import pytest
import torch
import torch.nn.functional as functional
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import p2p_helpers as p2p
from p2p_helpers.batch import Worker, results
from p2p_helpers.bench import Measures, decode_mask, pie_table, read_pie, run, run_pie
from p2p_helpers.bench.measures import DEVIATION, MEAN, MEASURES
from p2p_helpers.cli import main
from p2p_helpers.result import EditResult
from p2p_helpers.view.bench_figures import pie_figure

from .pie_bench import SIDE, encoded, write_folder, write_networks
from .transformers import build

theirs = pytest.importorskip("torchmetrics.functional.image.lpips")
peak_signal_noise_ratio = pytest.importorskip(
    "torchmetrics.functional.image"
).peak_signal_noise_ratio
METHODS = ("ddim", "direct")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """The folder, with its listing."""
    place = tmp_path_factory.mktemp("pie")
    return place, write_folder(place)


@pytest.fixture(scope="module")
def networks(tmp_path_factory, tokenizer):
    """Where the small networks are."""
    return write_networks(tmp_path_factory.mktemp("networks"), tokenizer)


@pytest.fixture(scope="module")
def measure(networks):
    return Measures(**networks)


@pytest.fixture
def run_on(data, networks, toyland, monkeypatch):
    """Runs the benchmark on the embedded model, with few steps."""
    monkeypatch.setattr(run, "load_pipeline", lambda *given, **more: toyland)

    def begin(out, data=data[0], **more):
        return run_pie(data, out, steps=2, **{"methods": METHODS, **networks, **more})

    return begin


@pytest.fixture
def quick_run_on(run_on, toyland, monkeypatch):
    """The same, with pictures that nobody had to make."""
    monkeypatch.setattr(Quick, "load", lambda self, model, device: toyland)
    monkeypatch.setattr(run, "_worker", lambda pipe: Quick)
    return run_on


class Quick(Worker):
    """Inverts nothing, and its pictures are grey."""

    def _source(self, job):
        return str(job.source)

    def edit(self, source, targets, edits, **arguments):
        given = (job_prompt(source), targets, edits, 0, 1, 1.0, None)
        return EditResult(Image.new("RGB", (8, 8)), [Image.new("RGB", (8, 8), "grey")], *given)


def job_prompt(source) -> str:
    return source.source_prompt if isinstance(source, EditResult) else source


# The folder


def bordered(mask):
    return np.pad(mask[1:-1, 1:-1], 1, constant_values=True)


@settings(max_examples=50, deadline=None)
@given(boxes=st.lists(st.tuples(*[st.integers(0, SIDE - 1)] * 4), max_size=4))
def test_a_mask_comes_back_from_its_runs_with_its_border_set(boxes):
    mask = np.zeros((SIDE, SIDE), bool)
    for top, bottom, left, right in boxes:
        mask[top : bottom + 1, left : right + 1] = True
    assert (decode_mask(encoded(mask)) == bordered(mask)).all()


def test_a_run_beyond_the_last_pixel_is_cut_off():
    mask = decode_mask([SIDE * SIDE - 600, 10_000])
    assert mask[-2].sum() == 88 + 1 and mask[-1].all()


@pytest.mark.usefixtures("untyped")
@pytest.mark.parametrize("runs", [[1], [-1, 3], [1, 2.5], 5, None, np.ones((2, 2), bool)])
def test_what_is_no_list_of_runs_is_refused(runs):
    with pytest.raises(p2p.InputError, match="no list of runs"):
        decode_mask(runs)


def test_the_folder_is_read_without_brackets(data):
    place, listing = data
    edits = read_pie(place)
    assert [edit.key for edit in edits] == list(listing)
    for edit, entry in zip(edits, listing.values(), strict=True):
        assert "[" in entry["editing_prompt"] and not set("[]") & set(edit.target)
        assert edit.target == entry["editing_prompt"].replace("[", "").replace("]", "")
        assert edit.picture.is_file()
    assert [len(edit.blended) for edit in edits] == [2, 0, 0]
    assert [edit.mask.all() for edit in edits] == [False, False, True]  # a style is everywhere


def test_words_are_swapped_where_there_are_as_many_and_else_added(data, tokenizer):
    swap, recolour, restyle = read_pie(data[0])
    assert repr(swap.edit(tokenizer)) == (
        "Replace(cross_steps=0.4, self_steps=0.6) | "
        f"Reweight({{'{swap.blended[1]}': 2.0}}, cross_steps=0.4, self_steps=0.6)"
    )
    assert repr(recolour.edit(tokenizer)).startswith("Replace(")
    assert repr(restyle.edit(tokenizer)).startswith("Refine(")
    assert repr(swap.edit(tokenizer, refine=True)).startswith("Refine(")
    job = swap.job(swap.edit(tokenizer), method="ddim", steps=3)
    assert job.local_blend.words == swap.blended and job.picture == str(swap.picture)
    assert restyle.job(p2p.Refine(), method="ddim").local_blend is None


BAD = {
    "": "names no edits",
    "{": "no JSON",
    '{"1": {"image_path": "a.jpg"}}': "KeyError",
    '{"1": 3}': "TypeError",
}


@pytest.mark.parametrize("text", BAD)
def test_a_listing_that_is_none_says_why(tmp_path, text):
    (tmp_path / "mapping_file.json").write_text(text or "{}")
    with pytest.raises(p2p.InputError, match=BAD[text]):
        read_pie(tmp_path)


def test_a_missing_folder_and_missing_pictures_are_said(tmp_path, data):
    with pytest.raises(p2p.InputError, match="mapping_file.json"):
        read_pie(tmp_path)
    (tmp_path / "mapping_file.json").write_text(json.dumps(data[1]))
    with pytest.raises(p2p.InputError, match="3 of 3 pictures are missing"):
        read_pie(tmp_path)


# The measures


def pictures(seed: int = 0):
    """A picture, the same changed inside a box, and the box."""
    rng = np.random.default_rng(seed)
    before = rng.integers(0, 256, (SIDE, SIDE, 3), np.uint8)
    mask = np.zeros((SIDE, SIDE), bool)
    mask[100:300, 50:400] = True
    after = np.where(mask[..., None], 255 - before, before)
    return before, after, mask


def test_what_changes_where_it_may_leaves_the_background_as_it_was(measure):
    before, after, mask = pictures()
    found = measure(before, after, "a cat on the beach", mask)
    assert list(found) == list(MEASURES)
    assert found["background psnr"] == 60 and found["background mse"] == 0
    assert found["background ssim"] == pytest.approx(1) and found["background lpips"] == 0
    assert found["structure distance"] > 0


def test_what_changes_elsewhere_is_measured_over_all_pixels(measure):
    before, after, mask = pictures()
    found = measure(before, after, "a cat on the beach", ~mask)
    error = ((before / 255 - after / 255) ** 2).mean()
    assert found["background mse"] == pytest.approx(error, rel=1e-4)
    assert found["background psnr"] == pytest.approx(-10 * np.log10(error), abs=1e-3)
    assert found["background ssim"] < 1 and found["background lpips"] > 0


def test_psnr_and_clip_are_those_of_the_libraries(measure):
    before, after, mask = pictures()
    found = measure(before, after, "a cat on the beach", ~mask)
    planes = [torch.tensor(p).permute(2, 0, 1)[None] / 255 for p in (before, after)]
    theirs = peak_signal_noise_ratio(*planes[::-1], data_range=1.0)
    assert found["background psnr"] == pytest.approx(theirs.item(), abs=1e-3)
    tokens = measure.tokenizer(["a cat on the beach"], return_tensors="pt")
    pixels = measure.processor(images=[after], return_tensors="pt")["pixel_values"]
    said = measure.clip(**tokens, pixel_values=pixels)
    cosine = said.logits_per_image.item() / measure.clip.logit_scale.exp().item()
    assert found["clip whole"] == pytest.approx(100 * max(cosine, 0), abs=1e-2)


def test_the_same_picture_has_the_same_structure(measure):
    before, _, mask = pictures()
    found = measure(before, before, "a cat", mask)
    assert found["structure distance"] == 0


def test_without_a_background_there_are_no_measures_of_it(measure):
    before, after, mask = pictures()
    found = measure(before, after, "a cat", np.ones_like(mask))
    assert all((found[name] is None) == name.startswith("background") for name in MEASURES)


def test_the_edited_part_is_black_outside_of_the_mask(measure):
    before, after, mask = pictures()
    found = measure(before, after, "a cat", mask)
    black = np.where(mask[..., None], after, 0).astype(np.uint8)
    alone = measure(before, black, "a cat", mask)
    assert found["clip edited"] == alone["clip whole"] == alone["clip edited"]
    assert found["clip whole"] != found["clip edited"]
    other = measure(before, after, "a dog on the beach", mask)
    assert found["clip whole"] != other["clip whole"]


def cosines(dino, picture):
    """Between the keys of the last block, worked out from what the block is given."""
    mean, deviation = (torch.tensor(values)[:, None, None] for values in (MEAN, DEVIATION))
    pixels = torch.tensor(picture).permute(2, 0, 1)[None].float()
    small = functional.interpolate(pixels, (224, 224), mode="bilinear")
    given = dino((small - mean) / deviation, output_hidden_states=True).hidden_states[-2]
    block = dino.layers[-1]
    keys = block.attention.k_proj(block.layernorm_before(given))[0]
    return torch.cosine_similarity(keys[:, None], keys[None], dim=-1)


def test_structure_is_of_the_cosines_between_keys_of_the_last_block(measure):
    before, after, _ = pictures()
    found = measure(before, after, "a cat", np.ones((SIDE, SIDE), bool))
    difference = cosines(measure.dino, before) - cosines(measure.dino, after)
    expected = (difference**2).mean().item()
    assert found["structure distance"] == pytest.approx(expected, rel=1e-3) and expected > 1e-8


def test_lpips_is_that_of_torchmetrics_on_the_same_network(measure, monkeypatch):
    """Theirs wants torchvision's network; ours stands in for it."""
    network = measure.lpips.network.features
    monkeypatch.setattr(theirs, "_get_tv_model_features", lambda *given: network)
    expected = theirs._LPIPS(net="squeeze")
    a, b = torch.rand(2, 2, 3, 97, 130, generator=torch.Generator().manual_seed(0))
    found = measure.lpips(a, b)
    assert torch.allclose(found, expected(a, b, normalize=True).flatten(), rtol=1e-4)
    assert found.min() > 1e-4


@pytest.mark.parametrize(
    ("option", "says"),
    [
        ("clip", "CLIP needs the model openai/clip-vit-large-patch14.*--clip FOLDER"),
        ("dino", "needs the model facebook/dino-vitb8.*--dino FOLDER"),
        ("lpips", "SqueezeNet's weights.*squeezenet1_1-b8a52dc0.pth.* into .*checkpoints.*--lpips"),
    ],
)
def test_missing_weights_say_which_and_where_they_can_lie(run_on, tmp_path, option, says):
    with pytest.raises(p2p.ModelError, match=says):
        run_on(tmp_path / "out", **{option: str(tmp_path / "nowhere")})
    assert not (tmp_path / "out").exists()  # nothing is begun


# The run


def test_every_edit_is_measured_and_says_where_it_comes_from(run_on, tmp_path):
    seen = []
    found = run_on(tmp_path, each=lambda done, total, row: seen.append((done, total)))
    assert json.loads((tmp_path / "pie.json").read_text()) == json.loads(json.dumps(found))
    assert tuple(found["methods"]) == METHODS and found["pictures"] == 3
    for one in found["methods"].values():
        assert (one["measured"], one["failed"]) == (3, 0)
        assert all(one["all"][name] is not None for name in MEASURES)
        assert list(one["kinds"]) == ["1", "6", "9"]
    assert seen[-1] == (12, 12)
    assert found["networks"]["clip"]["float16"] and found["model"]["weights"]["float16"]
    assert "cores" in found["machine"] and found["packages"]["torchmetrics"]
    table = pie_table(found).splitlines()
    assert len(table) == 4 and table[2].startswith("| ddim | 3 | 0 | ")
    means = [row["measures"]["clip whole"] for row in measured(tmp_path) if row["method"] == "ddim"]
    assert found["methods"]["ddim"]["all"]["clip whole"] == pytest.approx(np.mean(means))


def measured(out) -> list[dict]:
    lines = (out / "measures.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines if line]


def test_all_ten_kinds_of_edit_are_read(data, tmp_path):
    place, listing = data
    (tmp_path / "annotation_images").symlink_to(place / "annotation_images")
    entry = next(iter(listing.values()))
    ten = {str(code): {**entry, "editing_type_id": str(code)} for code in range(10)}
    (tmp_path / "mapping_file.json").write_text(json.dumps(ten))
    assert [edit.kind for edit in read_pie(tmp_path)] == [*"0123456789"]
    ten["4"]["mask"] = [1, 2, 3]
    (tmp_path / "mapping_file.json").write_text(json.dumps(ten))
    with pytest.raises(p2p.InputError, match="mapping_file.json, 4: A mask of 3 numbers"):
        read_pie(tmp_path)


def test_a_corrected_mask_is_measured_anew(quick_run_on, data, tmp_path):
    place, listing = data
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "annotation_images").symlink_to(place / "annotation_images")
    file = tmp_path / "data" / "mapping_file.json"
    found = []
    for mask in (None, [0, 9]):
        changed = {k: {**one, "mask": mask or one["mask"]} for k, one in listing.items()}
        file.write_text(json.dumps(changed))
        for _ in range(2):  # the second time nothing is left to do
            quick_run_on(tmp_path / "out", data=tmp_path / "data")
        found.append(len(measured(tmp_path / "out")))
    assert found[1] == 2 * found[0] > 0


def test_methods_that_there_are_not_are_said_before_anything_is_loaded(run_on, tmp_path):
    with pytest.raises(p2p.InputError, match="methods are ddim"):
        run_on(tmp_path / "out", methods=["nul-text"], clip=str(tmp_path / "nowhere"))
    assert not (tmp_path / "out").exists()


def test_all_methods_that_a_model_takes_are_run(run_on, tmp_path, toyland, monkeypatch):
    taken = run._methods(toyland, None)
    assert taken == ["ddim", "null-text", "negative-prompt", "direct", "exact"]
    pipe = build("sd3", tmp_path)
    monkeypatch.setattr(run, "load_pipeline", lambda *given, **more: pipe)
    found = run_on(tmp_path / "out", methods=None)
    measured = {method: one["measured"] for method, one in found["methods"].items()}
    assert measured == {"null-text": 3, "negative-prompt": 3, "direct": 3}
    with pytest.raises(p2p.InversionError, match="Take method='direct'"):
        run_on(tmp_path / "out", methods=["ddim"])


def test_the_command_writes_a_table_and_a_figure(
    quick_run_on, data, networks, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr("warnings.showwarning", None)  # the command sets it for its process
    options = [f"--{option}={place}" for option, place in networks.items()]
    folders = [f"--data={data[0]}", f"--out={tmp_path}"]
    with pytest.raises(SystemExit) as end:
        main(["bench", "pie", *folders, *options, "--methods=ddim, direct"])
    table = (tmp_path / "pie.md").read_text()
    assert end.value.code == 0 and table in capsys.readouterr().out
    assert [line[:12] for line in table.splitlines()[2:]] == ["| ddim | 3 |", "| direct | 3"]
    assert p2p.load_image(tmp_path / "pie.png").width > 500


def test_published_numbers_stand_beside_all_pictures_only(quick_run_on, tmp_path):
    found = quick_run_on(tmp_path, methods=["ddim"])
    asked = {**found["arguments"], "steps": 50, "guidance_scale": 7.5, "refine": True}
    whole = {**found, "pictures": 700, "arguments": asked}
    row = "| ddim, published | 700 | – | 69.43 | 17.87 | 208.80 | 219.88 | 71.14 | 25.01 | 22.44 |"
    assert row in pie_table(whole) and "published" not in pie_table(found)
    for other in ({"steps": 10}, {"guidance_scale": 4.0}, {"refine": False}):
        assert "published" not in pie_table({**whole, "arguments": {**asked, **other}})
    points = [
        [line.get_xdata()[0] for line in pie_figure(one).axes[0].lines] for one in (found, whole)
    ]
    ours = found["methods"]["ddim"]["all"]["background psnr"]
    assert points == [[ours], [ours, pytest.approx(17.87)]]


def test_an_edit_that_cannot_be_made_is_counted_and_the_rest_goes_on(run_on, tmp_path, monkeypatch):
    read = run.read_pie

    def poisoned(folder):
        edits = read(folder)
        object.__setattr__(edits[0], "blended", ("unicorn",))
        object.__setattr__(edits[1], "target", "")
        return edits

    monkeypatch.setattr(run, "read_pie", poisoned)
    found = run_on(tmp_path, methods=["ddim"])
    assert (found["methods"]["ddim"]["measured"], found["methods"]["ddim"]["failed"]) == (1, 2)
    kinds = {row["error"]["kind"] for row in results(tmp_path) if row["error"]}
    assert kinds == {"PromptError"}


@pytest.mark.parametrize(("name", "value"), [("steps", 0), ("guidance_scale", float("nan"))])
def test_numbers_that_are_none_are_refused_at_once(tmp_path, name, value):
    with pytest.raises(p2p.InputError, match=name):
        run.run_pie(tmp_path / "nowhere", tmp_path / "out", **{name: value})
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("untyped")
@pytest.mark.parametrize("methods", [["magic"], [["ddim"]], [], "ddim", 5])
def test_methods_that_are_none_are_refused(quick_run_on, tmp_path, methods):
    with pytest.raises(p2p.InputError, match="methods are ddim, null-text.*Give a list"):
        quick_run_on(tmp_path, methods=methods)


@pytest.mark.usefixtures("untyped")
@pytest.mark.parametrize("results", ["results/pie.json", None, [], {"methods": {}}])
def test_what_are_no_results_is_said(results):
    for use in (pie_table, pie_figure):
        with pytest.raises(p2p.InputError, match="results=.*give what run_pie.*json.loads"):
            use(results)


@pytest.mark.parametrize("during", ["edits", "measures"])
def test_a_killed_run_goes_on_where_it_was(quick_run_on, tmp_path, monkeypatch, during):
    edit, take, made = Quick.edit, Measures.__call__, {"edits": 0, "measures": 0}

    def counted(self, *given, **more):
        made["edits"] += 1
        return edit(self, *given, **more)

    def taken(self, *given):
        made["measures"] += 1
        return take(self, *given)

    def killed():
        kinds = {"edits": (Quick, "edit", edit), "measures": (Measures, "__call__", take)}
        owner, name, call = kinds[during]

        def third(*given, **more):
            made[during] += 1
            if made[during] == 3:
                os.kill(os.getpid(), 9)
            return call(*given, **more)

        setattr(owner, name, third)
        quick_run_on(tmp_path)

    process = multiprocessing.get_context("fork").Process(target=killed)
    process.start()
    process.join()
    assert process.exitcode == -9
    finished = len(list(results(tmp_path)))
    kept = len(measured(tmp_path)) if during == "measures" else 0
    assert (finished, kept) == {"edits": (2, 0), "measures": (6, 2)}[during]
    monkeypatch.setattr(Quick, "edit", counted)
    monkeypatch.setattr(Measures, "__call__", taken)
    found = quick_run_on(tmp_path)
    assert made == {"edits": 6 - finished, "measures": 6 - kept}
    assert [one["measured"] for one in found["methods"].values()] == [3, 3]
    made.update(edits=0, measures=0)
    assert quick_run_on(tmp_path) == found and made == {"edits": 0, "measures": 0}


def test_a_line_that_was_half_written_is_measured_again(quick_run_on, tmp_path):
    found = quick_run_on(tmp_path, methods=["ddim"])
    file = tmp_path / "measures.jsonl"
    file.write_text(file.read_text()[:-20])
    assert quick_run_on(tmp_path, methods=["ddim"]) == found
    assert len(file.read_text().splitlines()) == 5  # an empty one, three, and the half one


def test_other_networks_measure_again(quick_run_on, tmp_path, networks):
    first = quick_run_on(tmp_path / "out", methods=["ddim"])
    weights = torch.load(networks["lpips"])
    other = {name: weight + 0.1 for name, weight in weights.items()}
    torch.save(other, tmp_path / "other.pth")
    second = quick_run_on(tmp_path / "out", methods=["ddim"], lpips=str(tmp_path / "other.pth"))
    lpips = [one["methods"]["ddim"]["all"]["background lpips"] for one in (first, second)]
    assert lpips[0] != lpips[1]
    assert len(measured(tmp_path / "out")) == 6
