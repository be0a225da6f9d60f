"""``import ancestral`` is light, complete, and says the version that is installed."""

from __future__ import annotations

import importlib.metadata
import json
import subprocess
import sys

import ancestral

LOADED_WHERE_USED = ("pydantic", "tyro", "rich", "sklearn", "PIL", "matplotlib", "pyarrow", "datasets")
"""What configs, the command line, the data and the plots need, and a bare machine may lack."""

TOUCH_EVERY_NAME = """
import json, sys
import ancestral
for name in ancestral.__all__:
    getattr(ancestral, name)
print(json.dumps(sorted({module.partition(".")[0] for module in sys.modules})))
"""


def packages_after(code: str) -> set[str]:
    """The top-level packages loaded by a new interpreter that ran ``code``, warnings being errors."""
    run = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, timeout=120
    )
    assert run.returncode == 0, run.stderr
    return set(json.loads(run.stdout))


def test_import_loads_only_what_the_core_needs() -> None:
    loaded = packages_after(TOUCH_EVERY_NAME)
    assert {"ancestral", "torch"} <= loaded
    assert loaded.isdisjoint(LOADED_WHERE_USED)


def test_every_public_name_resolves() -> None:
    assert len(set(ancestral.__all__)) == len(ancestral.__all__)
    missing = [name for name in ancestral.__all__ if not hasattr(ancestral, name)]
    assert not missing


def test_version_is_that_of_the_installed_package() -> None:
    assert ancestral.__version__ == importlib.metadata.version("ancestral")
