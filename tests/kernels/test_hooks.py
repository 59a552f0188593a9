"""The table of hooks against the installed SGLang, and against one that has moved on."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

LOOK = """
import json, logging, warnings
warnings.simplefilter("ignore")
from dataclasses import replace
from attn_kernels.sglang_plugin import hooks, versions

told = []
class Told(logging.Handler):
    def emit(self, record):
        told.append(record.getMessage())
logging.getLogger("attn_kernels").addHandler(Told())

table = hooks.all_hooks()
found = {
    "installed": versions.installed(),
    "problems": [hooks.problem_of(h) for h in table if hooks.problem_of(h)],
    "changed": [h.target for h in table if versions.has_changed(h.target, hooks.original_of(h))],
    "silent": [h.target for h in table if not (h.why and h.breaks)],
    "targets": [h.target for h in table],
}
stock = {h.target: hooks.original_of(h) for h in table}

gone = [replace(h, target=h.target + "_of_old") for h in table if h.optional]
hooks.install(gone)
found["optional"] = told[:]
told.clear()

versions.installed = lambda: "0.6.0"
hooks.warn_of_unknown_version()
versions.has_changed = lambda target, function: target.endswith("ModelRunner.forward")
hooks.warn_of_unknown_version()
found["unknown"] = told[:]

import pkgutil
def is_stock(target):
    owner, _, name = target.rpartition(".")
    return not hasattr(getattr(pkgutil.resolve_name("sglang.srt." + owner), name), "__wrapped__")
found["stock"] = [is_stock(h.target) for h in hooks.scheduler_hooks()]
hooks.install([h for h in table if h.target.endswith("ModelRunner.forward")])
found["hooked"] = is_stock("model_executor.model_runner.ModelRunner.forward")
found["unwrapped"] = hooks.original_of(next(h for h in table if h.target.endswith("ModelRunner.forward"))) is stock[
    "model_executor.model_runner.ModelRunner.forward"]
print("FOUND " + json.dumps(found))
"""


@pytest.fixture(scope="module")
def found() -> dict[str, object]:
    """What one process of its own finds: SGLang's import and its hooks are for a whole process."""
    done = subprocess.run([sys.executable, "-c", LOOK], capture_output=True, text=True, check=False)
    lines = [line for line in done.stdout.splitlines() if line.startswith("FOUND ")]
    assert lines, done.stderr[-2000:]
    answer: dict[str, object] = json.loads(lines[-1].removeprefix("FOUND "))
    return answer


def test_every_hook_fits_the_installed_sglang_and_says_what_breaks(found: dict[str, object]) -> None:
    assert found["problems"] == []
    assert found["silent"] == []
    assert len(set(found["targets"])) == len(found["targets"])  # type: ignore[call-overload,arg-type]


def test_the_installed_release_was_tried_as_it_is(found: dict[str, object]) -> None:
    from attn_kernels.sglang_plugin.known_sources import SOURCES
    from attn_kernels.sglang_plugin.versions import KNOWN_VERSIONS

    assert found["installed"] in KNOWN_VERSIONS
    assert set(SOURCES) == set(KNOWN_VERSIONS)
    assert found["changed"] == [], "note them with scripts/check_sglang_releases.py --write"


def test_an_optional_hook_that_is_gone_is_told_and_done_without(found: dict[str, object]) -> None:
    [told] = [line for line in found["optional"] if "send_abort_output" in line]  # type: ignore[attr-defined]
    assert "send_abort_output_of_old: it is not there" in told
    assert "so a request that is aborted while it waits has no end in the store" in told


def test_an_unknown_release_is_told_with_the_hooks_at_risk(found: dict[str, object]) -> None:
    unchanged, changed = found["unknown"]  # type: ignore[misc]
    assert unchanged.startswith("Attention capture: sglang 0.6.0 has not been tried (0.5.23, 0.5.22 have).")
    assert unchanged.endswith("No place that the plugin hooks has changed since.")
    assert changed.endswith(
        "at risk: sglang.srt.model_executor.model_runner.ModelRunner.forward (else no step is captured)"
    )


def test_without_the_capture_every_function_on_the_decode_path_is_the_stock_one(found: dict[str, object]) -> None:
    assert found["stock"]
    assert all(found["stock"])  # type: ignore[call-overload]
    assert found["hooked"] is False, "and it would be seen if it were not"
    assert found["unwrapped"] is True
