"""torch.compile takes the model whole during edits: no graph break, and no compiling anew from step to step or run to run."""

import json
import subprocess
import sys

import pytest


@pytest.mark.parametrize(
    "model, way",
    [("unet", "in-place"), ("sd3.5", "wrapped"), ("flux", "in-place")],
)
def test_one_graph_for_each_kind_of_step(model, way):
    """torch.compile(unet) and unet.compile(). A graph break would be an error, since graphs are captured whole."""
    command = [sys.executable, "-m", "tests.compiling", model, way]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    found = json.loads(run.stdout.splitlines()[-1])
    graphs = found["graphs"]
    assert graphs["edit"] == 3  # of ten steps: S with self-attention, S and T, neither
    assert graphs["blend and record"] <= 6  # and each with self-attention recorded or not
    assert graphs["edit again"] == graphs["both again"] == 0
    assert max(found["apart"].values()) <= 1
