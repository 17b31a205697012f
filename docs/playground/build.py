"""Build the playground: the page, the embedded model's graphs, and two libraries from npm.

    python docs/playground/build.py FOLDER       # everything
    python docs/playground/build.py --fetch      # only what comes from npm, into runs/npm, with what the tests need

npm itself is not needed. The registry is that of the environment variable npm_config_registry, or
npm's public one. Every package is pinned and its digest is checked.
"""

from __future__ import annotations

import base64
import fnmatch
import hashlib
import io
import os
import shutil
import sys
import tarfile
import tempfile
import urllib.request
from collections.abc import Iterable
from pathlib import Path

HERE = Path(__file__).parent
KEPT = HERE.parent.parent / "runs" / "npm"
REGISTRY = "https://registry.npmjs.org/"
PAGE = ("*.html", "*.css", "*.js")
PACKAGES = {
    "onnxruntime-web": {
        "version": "1.30.0",
        "sha512": "q0y+JrrtukXSzsBWEMccVfqX25LRmosXHF+CaRJmg8pZClzcV7svNc4rKY3jL02Vb7QmRMDs1SigqR4CXAfKYQ==",
        "files": (
            "dist/ort.wasm.min.mjs",
            "dist/ort-wasm-simd-threaded.mjs",
            "dist/ort-wasm-simd-threaded.wasm",
            "dist/ort.webgpu.min.mjs",
            "dist/ort-wasm-simd-threaded.asyncify.mjs",
            "dist/ort-wasm-simd-threaded.asyncify.wasm",
        ),
    },
    "@huggingface/tokenizers": {
        "version": "0.2.0",
        "sha512": "LidMHe1FpcSYH4vcSjXooda34pC0M8m1gmDOv7SQi6Iv+ib1zX7J3sHBCC9/3FPCkn2k1b55FneVqMRxrr99pg==",
        "files": ("dist/tokenizers.min.mjs",),
    },
    "typescript": {  # checks the page's types, and is no part of it
        "version": "5.9.3",
        "sha512": "jl1vZzPDinLr9eUt3J/t7V6FgNEw9QjvBPdysz9KfQDD41fQrC2Y4vKQdiaUpFT4bXlb1RHhLpp8wtm6M5TgSw==",
        "files": ("lib/tsc.js", "lib/_tsc.js", "lib/lib.*.d.ts"),
    },
    "axe-core": {  # checks whether everyone can use the page, and is no part of it
        "version": "4.14.1",
        "sha512": "FHfa+lmNjQZfJz1q8wKqIDwC6DExcHt/pkjNQb09a3NPjCKg2rhu5qb2S4r76ASyFNNtuFooJpZe37OgudVGtQ==",
        "files": ("axe.min.js",),
    },
}
LIBRARIES = ("onnxruntime-web", "@huggingface/tokenizers")  # of the page


def kept(name: str) -> Path:
    """The folder of a package's files, once it was fetched."""
    return KEPT / f"{name.split('/')[-1]}-{PACKAGES[name]['version']}"


def fetch(names: Iterable[str] | None = None) -> Path:
    """The folder with the files of packages, all if none is named; what is not there is downloaded, and appears whole or not at all."""
    for name in PACKAGES if names is None else names:
        package = PACKAGES[name]
        if kept(name).is_dir():
            continue
        KEPT.mkdir(parents=True, exist_ok=True)
        content = _package(name, package["version"], package["sha512"])
        with (
            tempfile.TemporaryDirectory(dir=KEPT) as part,
            tarfile.open(fileobj=io.BytesIO(content)) as archive,
        ):
            for inside in archive.getmembers():
                if any(fnmatch.fnmatch(inside.name, f"package/{one}") for one in package["files"]):
                    (Path(part) / Path(inside.name).name).write_bytes(
                        archive.extractfile(inside).read()
                    )
            os.chmod(part, 0o755)  # another user may serve it
            os.rename(part, kept(name))
            Path(part).mkdir()  # for what removes it
    return KEPT


def _package(name: str, version: str, digest: str) -> bytes:
    """A package's archive, if it is the one that was pinned."""
    registry = os.environ.get("npm_config_registry", REGISTRY).rstrip("/")  # noqa: SIM112
    address = f"{registry}/{name}/-/{name.split('/')[-1]}-{version}.tgz"
    try:
        with urllib.request.urlopen(address, timeout=180) as answer:
            content = answer.read()
    except OSError as error:
        sys.exit(
            f"{address} cannot be read ({error}). Set npm_config_registry to a registry in reach."
        )
    found = base64.b64encode(hashlib.sha512(content).digest()).decode()
    if found != digest:
        sys.exit(f"{address} is not the file that was pinned: its SHA-512 is {found}.")
    return content


def copy_page(folder: Path):
    """The page's own files and the libraries, without a model."""
    folder.mkdir(parents=True, exist_ok=True)
    for pattern in PAGE:
        for file in HERE.glob(pattern):
            shutil.copy(file, folder)
    (folder / "lib").mkdir(exist_ok=True)
    for name in LIBRARIES:
        shutil.copytree(kept(name), folder / "lib", dirs_exist_ok=True)
    # tokenizers.js is under the same licence, Apache 2.0.
    for notice in ("LICENSE", "THIRD_PARTY_NOTICES.md"):
        shutil.copy(HERE.parent.parent / notice, folder / "lib")


def seal(folder: Path):
    """Write the digest of all files into the service worker, which keeps them under this name."""
    digest = hashlib.sha256()
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        digest.update(file.read_bytes())
    worker = folder / "sw.js"
    text = worker.read_text(encoding="utf-8").replace("VERSION", f"p2p-{digest.hexdigest()[:16]}")
    worker.write_text(text, encoding="utf-8")


def main(folder: Path):
    """Everything, into a folder."""
    import p2p_helpers as p2p

    fetch(LIBRARIES)
    copy_page(folder)
    p2p.export(p2p.load_pipeline("toyland", device="cpu"), folder / "model")
    seal(folder)
    print(folder / "index.html")


if __name__ == "__main__":
    if sys.argv[1:] == ["--fetch"]:
        print(fetch())
    elif len(sys.argv) == 2:
        main(Path(sys.argv[1]))
    else:
        sys.exit(__doc__)
