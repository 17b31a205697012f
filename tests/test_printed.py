"""An edit reads back from its printed form, and nothing else in a text is taken or run."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import p2p_helpers as p2p

shares = st.floats(0, 1)
intervals = shares | st.tuples(shares, shares).map(lambda ends: tuple(sorted(ends)))
words = st.text(min_size=1, max_size=8)
phrases = words | st.tuples(words, st.integers(0, 9))
schedules = intervals | st.dictionaries(phrases, intervals, max_size=3)
common = {
    "self_steps": st.none() | intervals,
    "self_size": st.none() | st.floats(0.01, 1),
    "layers": st.none() | words | st.lists(words, min_size=1, max_size=3),
}
weights = st.dictionaries(phrases, st.integers(-9, 9) | st.floats(-1000, 1000), max_size=4)
places = {"dx": st.floats(-1, 1), "dy": st.floats(-1, 1)}
sizes = {"scale": st.floats(0.11, 4)}


def kind(of, **own):
    """What an edit of a kind is made of; it is made in the test, where its types may be checked."""
    return st.fixed_dictionaries(
        {"of": st.just(of), **own}, optional={"cross_steps": schedules, **common}
    )


kinds = st.one_of(
    kind(p2p.Replace),
    kind(p2p.Refine),
    kind(p2p.InjectQK),
    kind(p2p.Reweight, weights=weights),
    kind(p2p.Remove, phrase=phrases),
    kind(p2p.Move, phrase=phrases, **places),
    kind(p2p.Resize, phrase=phrases, **sizes),
    kind(p2p.Duplicate, phrase=phrases, **places, **sizes),
)
plans = st.recursive(kinds, lambda inner: st.tuples(inner, inner), max_leaves=4)


def made(plan):
    if isinstance(plan, tuple):
        return made(plan[0]) | made(plan[1])
    return plan["of"](**{name: value for name, value in plan.items() if name != "of"})


@given(plans)
@settings(max_examples=200, deadline=None)
def test_an_edit_reads_back_from_what_it_prints(plan):
    edit = made(plan)
    assert p2p.read_edit(repr(edit)) == edit


def test_numpy_numbers_print_as_numbers(untyped):
    swept = p2p.Replace(cross_steps=np.float64(0.5)) | p2p.Reweight({"dog": np.float32(2)})
    assert repr(swept) == "Replace(cross_steps=0.5) | Reweight({'dog': 2.0}, cross_steps=0.8)"
    assert p2p.read_edit(repr(swept)) == swept
    moved = p2p.Move(("cat", np.int64(2)), np.float64(0.1))
    assert repr(moved) == "Move(('cat', 2), dx=0.1)"
    assert p2p.read_edit(repr(moved)) == moved
    blend = p2p.LocalBlend(("cat", np.int64(2)), threshold=np.float64(0.3))
    assert repr(blend) == repr(p2p.LocalBlend(("cat", 2)))


def test_parentheses_and_spaces_are_a_writers_own():
    read = p2p.read_edit(" ( Replace() |Refine( cross_steps = .5 ) ) ")
    assert read == p2p.Replace() | p2p.Refine(cross_steps=0.5)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "cannot be read"),
        ("Replace(", "cannot be read"),
        ("Replace", "is none of Replace, Refine"),
        ("Swap()", "'Swap' is none of Replace, Refine"),
        ("Replace() & Refine()", "is none of"),
        ("Replace() | 3", "'3' is none of"),
        ("Edit()", "'Edit' is none of"),
        ("Replace(cross_step=0.5)", "unexpected keyword argument 'cross_step'"),
        ("Replace(0.5)", "cannot be made"),
        ("Reweight()", "missing 1 required positional argument: 'weights'"),
        ("Reweight({'dog': two})", "two.* is no plain value"),
        ("Replace(cross_steps=1.5)", "0 ≤ start ≤ end ≤ 1"),
        ("Replace(**{'cross_steps': 0.5})", "Write every value by its name"),
        ("Replace(*[1])", "is no plain value"),
        ("Replace(layers=7)", "layers=7"),
        ("Replace(" * 500 + ")" * 500, "cannot be read|no plain value|joins too many"),
        ("|".join(["Refine()"] * 1100), "joins too many|cannot be read"),
        ("Refine()" + " " * 10_000, "10008 characters"),
        ("Reweight({'a': 9**9**9})", "no plain value"),
        (b"Replace()", "is no text"),
    ],
)
def test_what_is_no_edit_is_refused_with_what_to_write(text, says, untyped):
    with pytest.raises(p2p.InputError, match=says):
        p2p.read_edit(text)


@pytest.mark.parametrize(
    "text",
    [
        "__import__('os').mkdir({place!r})",
        "Replace(cross_steps=__import__('os').mkdir({place!r}))",
        "Replace(layers=[open({place!r}, 'w').name])",
        "(lambda: open({place!r}, 'w'))()",
        "Replace.__init__.__globals__['__builtins__']['open']({place!r}, 'w')",
        "Replace(layers=f'{{open({place!r}, chr(119))}}')",
    ],
)
def test_nothing_in_a_text_is_run(text, tmp_path):
    with pytest.raises(p2p.InputError):
        p2p.read_edit(text.format(place=str(tmp_path / "made")))
    assert list(tmp_path.iterdir()) == []
