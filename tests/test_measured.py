"""What pages say was measured is what the stored files say, and each names its machine."""

import json
import re
from pathlib import Path

import pytest

from benchmarks import batch, describing, editing, inversion, layout, resolutions, summary
from p2p_helpers.toyland import evaluate

ROOT = Path(__file__).parent.parent
PAGE, RESOLUTIONS, SCALE = (
    ROOT / "docs" / f"{name}.md" for name in ("measured", "resolutions", "scale")
)
BENCHMARK, TOYLAND = ROOT / "data" / "benchmark", ROOT / "data" / "toyland"
SCENES = BENCHMARK / "inversion.json"  # a list of what is measured, and no result
RESULTS = [*sorted({*BENCHMARK.glob("*.json")} - {SCENES}), *TOYLAND.glob("evaluation*.json")]


def stored(file: Path) -> dict:
    return json.loads(file.read_text(encoding="utf-8"))


QUOTED = {  # the file, its mark, and what stands there
    (ROOT / "README.md", "summary"): summary.table,
    (ROOT / "README.md", "aims"): summary.aims,
    (TOYLAND / "MODEL_CARD.md", "aims"): summary.aims,
    (TOYLAND / "MODEL_CARD.md", "world"): summary.world,
    (PAGE, "editing"): lambda: editing.short(stored(BENCHMARK / "editing.json")),
    (PAGE, "layout"): lambda: layout.table(stored(BENCHMARK / "layout.json")),
    (RESOLUTIONS, "edits"): lambda: resolutions.edit_table(stored(BENCHMARK / "resolutions.json")),
    (RESOLUTIONS, "trained"): lambda: resolutions.trained_table(
        stored(BENCHMARK / "resolutions.json")
    ),
    **{
        (SCALE, name): lambda name=name: batch.TABLES[name](stored(BENCHMARK / "batch.json")[name])
        for name in batch.TABLES
    },
    **{
        (PAGE, mark): lambda mark=mark: describing.TABLES[mark](
            stored(BENCHMARK / "describing.json")[mark]
        )
        for mark in describing.TABLES
    },
    (PAGE, "inversion"): lambda: inversion.table(stored(BENCHMARK / "measured.json")["summary"]),
} | {
    (TOYLAND / "MODEL_CARD.md", mark): lambda name=name: evaluate.report(stored(TOYLAND / name))
    for name, mark in evaluate.MEASURED.values()
}


@pytest.mark.parametrize(("file", "mark"), QUOTED)
def test_a_table_between_marks_is_what_the_stored_figures_give(file, mark):
    _, _, rest = file.read_text(encoding="utf-8").partition(f"<!-- {mark} -->\n")
    assert rest.partition("\n<!-- end -->")[0] == QUOTED[file, mark]()


def test_every_table_between_marks_is_known():
    for file in (ROOT / "README.md", PAGE, RESOLUTIONS, SCALE, TOYLAND / "MODEL_CARD.md"):
        ends = file.read_text(encoding="utf-8").count("<!-- end -->")
        assert ends == sum(quoted == file for quoted, _ in QUOTED)


@pytest.mark.parametrize("file", RESULTS, ids=lambda file: file.name)
def test_every_file_of_results_names_its_machine(file):
    said = stored(file)["machine"]
    for one in said.values() if isinstance(said, dict) else [said]:  # of each part its own
        assert re.match(r"\w[^,]+, \d+ (cores|threads), .*torch \d", one), one
