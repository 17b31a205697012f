"""How long loading and editing take on this machine: `python benchmarks/editing.py`. Prints medians; nothing is asserted."""

import platform
import statistics
import subprocess
import sys
import time

import torch

import p2p_helpers as p2p

LOAD = "import time, p2p_helpers as p; s = time.time(); p.load_pipeline('toyland'); print(time.time() - s)"


def seconds(run, times: int = 5) -> float:
    """Median wall time of `run()` after one warm-up."""
    run()
    spent = []
    for _ in range(times):
        start = time.time()
        run()
        spent.append(time.time() - start)
    return statistics.median(spent)


def main():
    pipe = p2p.load_pipeline("toyland")
    pipe.set_progress_bar_config(disable=True)
    loads = [float(subprocess.run([sys.executable, "-c", LOAD], capture_output=True, text=True, check=True).stdout) for _ in range(3)]
    source, target = "a cat on the beach", "a dog on the beach"
    twins = [source, target]
    print(
        f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} threads, device {pipe.device}, torch {torch.__version__}"
    )
    print(f"load the embedded model, packages imported        {statistics.median(loads):6.2f} s")
    plain = seconds(lambda: pipe(twins, num_inference_steps=30, guidance_scale=4.0))
    print(f"plain pipeline, 2 prompts, 30 steps               {plain:6.2f} s")
    for name, change in (
        ("word swap", p2p.Replace()),
        ("word swap, all self-attention layers", p2p.Replace(cross_steps=0.8, self_steps=0.4, self_size=1.0)),
    ):
        spent = seconds(lambda change=change: p2p.edit(pipe, source, target, change, progress=False))
        print(f"{name + ', 2 prompts, 30 steps':50}{spent:6.2f} s   {spent / plain - 1:+.0%}")


if __name__ == "__main__":
    main()
