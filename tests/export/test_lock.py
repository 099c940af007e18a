"""The lock of an output folder under stress: never held twice, and never refused where nobody holds it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from waiting import PATIENCE

pytestmark = pytest.mark.slow

SECONDS = int(os.environ.get("GEOPIPE_TRIALS", "2"))
"""For which processes compete; the long form asks for twenty."""

WORK = """
import json, os, sys, time
from pathlib import Path
from geopipe.export.state import status
from geopipe.export.lock import locked
from geopipe.errors import MachineError, PlanError

output, inside, word, seconds = Path(sys.argv[1]), sys.argv[2], sys.argv[3], float(sys.argv[4])
counts, wrong, end = {"held": 0, "twice": 0, "refused": 0}, [], time.monotonic() + seconds
while time.monotonic() < end or (word == "lock" and counts["held"] < 11):
    try:
        if word == "look":
            try:
                status(output)
            except PlanError:  # there is no run
                pass
            continue
        with locked(output, f"run-{os.getpid()}"):
            try:
                os.close(os.open(inside, os.O_CREAT | os.O_EXCL))
            except FileExistsError:
                counts["twice"] += 1
                continue
            time.sleep(0.0002)
            os.unlink(inside)
            counts["held"] += 1
    except MachineError as error:
        counts["refused"] += 1
        if "is in use by" not in str(error):
            wrong.append(str(error))
print(json.dumps([counts, wrong[:3]]))
"""


def compete(output: Path, inside: Path, lockers: int, lookers: int) -> tuple[dict[str, int], list[str]]:
    """Let processes take the lock of an output, and look at it, as often as they can; returns what they counted."""
    words = ["lock"] * lockers + ["look"] * lookers
    commands = [[sys.executable, "-c", WORK, str(output), str(inside), word, str(SECONDS)] for word in words]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for command in commands]
    results = [json.loads(process.communicate(timeout=SECONDS + PATIENCE)[0]) for process in running]
    counts = {key: sum(counts[key] for counts, _ in results) for key in results[0][0]}
    return counts, [text for _, wrong in results for text in wrong]


def test_of_twelve_processes_one_holds_the_output_at_a_time(tmp_path: Path) -> None:
    counts, wrong = compete(tmp_path / "new" / "out", tmp_path / "inside", 12, 0)
    assert counts["held"] > 10
    assert counts["twice"] == 0
    assert wrong == []


def test_who_looks_at_an_output_keeps_no_run_from_it(tmp_path: Path) -> None:
    counts, wrong = compete(tmp_path / "new" / "out", tmp_path / "inside", 1, 3)
    assert counts["held"] > 10
    assert (counts["twice"], counts["refused"], wrong) == (0, 0, [])
