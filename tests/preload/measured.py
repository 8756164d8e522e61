"""Branch coverage of the code under test, of all processes that are forks of the preloaded one.

On Python 3.11 coverage.py traces each call of third-party code too, which took a quarter of the suite's time. SlipCover
puts probes into our code alone, and the preloaded process does so once, so that its forks need not.
"""

import ast
import json
import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from pathlib import Path
from types import CodeType, ModuleType

from slipcover import Slipcover, print_coverage
from slipcover.branch import preinstrument

VARIABLE = "COVERAGE_FOLDER"  # where each process says what it ran, by an environment variable
ROOT = Path(__file__).parents[2]
PACKAGES = {"nerveseg": ROOT / "src" / "nerveseg", "flows": ROOT / "flows"}
NEVER = 2**30  # misses after which probes are taken out, which would walk through all objects

probes = Slipcover(branch=True, d_miss_threshold=NEVER)
codes: dict[tuple[str, bytes], CodeType] = {}  # with probes, by module and source


def prepare() -> None:
    """Modules with the source of this repository are measured from now on, wherever a test has copied them to."""
    codes.update(_with_probes(probes))
    sys.meta_path.insert(0, _Finder())


def save() -> None:
    """Writes what this process ran, if anything was measured."""
    seen = {file: sorted(lines, key=str) for file, lines in probes.newly_seen.items()}
    if seen:
        with suppress(OSError):  # a test may have filled the disk
            name = f"{os.getpid()}-{time.time_ns()}.json"
            (Path(os.environ[VARIABLE]) / name).write_text(json.dumps(seen))


def report(folder: Path) -> None:
    """Prints the coverage of all processes that wrote to `folder`."""
    whole = Slipcover(branch=True)
    dict(_with_probes(whole))  # it learns which lines and branches there are
    for path in folder.iterdir():
        for file, seen in json.loads(path.read_text()).items():
            whole.all_seen[file].update(tuple(each) if isinstance(each, list) else each for each in seen)
    print_coverage(whole.get_coverage(), missing_width=60, skip_covered=True)


def _with_probes(slipcover: Slipcover) -> Iterator[tuple[tuple[str, bytes], CodeType]]:
    for package, folder in PACKAGES.items():
        for path in sorted(folder.rglob("*.py")):
            parts = path.relative_to(folder).with_suffix("").parts
            module = ".".join((package, *(parts if parts[-1] != "__init__" else parts[:-1])))
            source = path.read_bytes()
            yield (module, source), slipcover.instrument(compile(preinstrument(ast.parse(source)), str(path), "exec"))


class _Finder(MetaPathFinder):
    """Finds the packages as Python does; their modules have probes unless a test changed them."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname.partition(".")[0] not in PACKAGES:
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec and isinstance(spec.loader, SourceFileLoader):
            spec.loader = _Loader(spec.loader.name, spec.loader.path)
        return spec


class _Loader(SourceFileLoader):
    def get_code(self, fullname: str) -> CodeType | None:
        return codes.get((fullname, self.get_data(self.path))) or super().get_code(fullname)
