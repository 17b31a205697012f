"""`python -m p2p_helpers.voting FOLDER`: serve a study and store its votes; with `--results` print what they say."""

from __future__ import annotations

import argparse
from pathlib import Path

from .results import study_results
from .server import serve


def main(arguments: list[str] | None = None):
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m p2p_helpers.voting", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--results", action="store_true", help="print the results, serve nothing")
    parser.add_argument("--host", default="127.0.0.1", help="0.0.0.0 for a class on one network")
    parser.add_argument("--port", type=int, default=8000)
    chosen = parser.parse_args(arguments)
    if chosen.results:
        print(study_results(chosen.folder))
        return
    server = serve(chosen.folder, chosen.host, chosen.port)
    print(f"http://{chosen.host}:{server.server_port}/ until Ctrl-C", flush=True)
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        print(study_results(chosen.folder))


if __name__ == "__main__":
    main()
