"""Generate the Python code of `proto/` into `src/syncline/rpc/gen`; `--check` only compares.

python tools/generate_proto.py [--check]
"""

from __future__ import annotations

import re
import sys
import tempfile
from importlib import resources
from pathlib import Path

from grpc_tools import protoc

ROOT = Path(__file__).resolve().parent.parent
PROTO = ROOT / "proto"
INIT = '"""Generated from proto/; see tools/generate_proto.py."""\n'
TARGET = ROOT / "src" / "syncline" / "rpc" / "gen"


def generate(target: Path) -> None:
    """Write the modules for every .proto below `proto/` into `target`."""
    sources = sorted(str(path) for path in PROTO.rglob("*.proto"))
    include = resources.files("grpc_tools") / "_proto"
    arguments = [
        "protoc",
        f"-I{PROTO}",
        f"-I{include}",
        f"--python_out={target}",
        f"--plugin=protoc-gen-mypy={Path(sys.executable).parent / 'protoc-gen-mypy'}",
        f"--mypy_out={target}",
        *sources,
    ]
    if protoc.main(arguments) != 0:
        sys.exit("protoc failed")
    for path in sorted(target.rglob("*.py*")):
        text = path.read_text()
        # protoc writes imports from the root of the proto tree; ours lie inside a package.
        text = re.sub(
            r"^(from|import) syncline\.v1", r"\1 syncline.rpc.gen.syncline.v1", text, flags=re.M
        )
        path.write_text(text)
    for folder in [target, *(path for path in target.rglob("*") if path.is_dir())]:
        (folder / "__init__.py").write_text(INIT)


def contents(folder: Path) -> dict[str, str]:
    """Return the text of every module below a folder by its relative name."""
    return {
        str(path.relative_to(folder)): path.read_text()
        for path in sorted(folder.rglob("*.py*"))
        if "__pycache__" not in path.parts
    }


def main() -> None:
    """Generate, or compare and exit with 1 where the committed code is out of date."""
    with tempfile.TemporaryDirectory() as scratch:
        generate(Path(scratch))
        wanted = contents(Path(scratch))
    if "--check" in sys.argv[1:]:
        if wanted != contents(TARGET):
            sys.exit("src/syncline/rpc/gen is not what proto/ says: run `make proto` and commit it")
        print("generated code is up to date")
        return
    for name, text in wanted.items():
        path = TARGET / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    for name in contents(TARGET).keys() - wanted.keys():
        (TARGET / name).unlink()
    print(f"generated {len(wanted)} modules into {TARGET.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
