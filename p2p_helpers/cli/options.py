"""Options that several commands have."""

from __future__ import annotations

from typing import Annotated

import typer

Model = Annotated[
    str,
    typer.Option(help="“toyland” (embedded), a folder, a .safetensors file or a Hub id."),
]
Device = Annotated[
    str | None, typer.Option(help="cuda, mps or cpu; the fastest there is when not given.")
]
Seed = Annotated[int, typer.Option(help="The same seed gives the same picture.")]
Steps = Annotated[int | None, typer.Option(help="Denoising steps.")]
Guidance = Annotated[
    float | None, typer.Option(help="Guidance scale; the model's usual one when not given.")
]
