"""Damaged inputs and state files, by the thousand: each is worked on or refused by an error of geopipe's.

    python tests/chaos/fuzz.py                    # 5,000 inputs (make fuzz)
    python tests/chaos/fuzz.py --count 300        # of each kind its share
    python tests/chaos/fuzz.py --case tiff 123    # one again, with its folder, commands and output

Kinds: GeoTIFF, NetCDF, other images, Parquet, CSV, GeoJSON, STAC, settings, and what a run leaves in its output (plan,
journals, manifest, _SUCCESS). Each input meets the commands of geopipe in one process with others of its kind, so that
a crash of GDAL is seen, too. A finding is an exception that is not ours, also one that the plain loop has wrapped; an
unknown exit code; a command that takes longer than LIMIT; a process that dies; a terminal's control characters in what
is printed. Each has its kind and seed.
"""

from __future__ import annotations

import argparse
import faulthandler
import json
import os
import re
import resource
import shutil
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from io import StringIO
from pathlib import Path

from surroundings import REPOSITORY, signals_as_they_were

LIMIT = 180
"""Seconds for all commands of an input, on a machine that has other work, too; most take a tenth of one."""
MEMORY = 12 << 30
"""Bytes of address space of a process; what is asked for beyond it is an allocation that fails."""
BATCH = 100
"""Inputs in a process."""
CODES = {0, 1, 2, 3, 4}

WRAPPED = re.compile(r"the run failed: (?!OSError|PermissionError)\w+:.*")
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


@dataclass
class Report:
    """What came of the inputs of a kind."""

    inputs: int = 0
    done: int = 0
    findings: list[str] = field(default_factory=list)


def call(command: list[str]) -> tuple[int | None, str, str | None]:
    """Exit code and output of a command of geopipe in this process, and what is wrong with them."""
    from geopipe.cli import main as cli

    out = StringIO()
    before, sys.argv = sys.argv, ["geopipe", *command]
    code: int | None = None
    wrong: str | None = None
    try:
        with redirect_stdout(out), redirect_stderr(out), signals_as_they_were():
            code = cli.execute()
    except BaseException as error:
        place = [f for f in traceback.extract_tb(error.__traceback__) if "geopipe" in f.filename][-1]
        wrong = f"{type(error).__name__} at {Path(place.filename).name}:{place.lineno}: {error}"
        traceback.print_exc(file=out)
    finally:
        sys.argv = before
    text = out.getvalue()
    if wrong is None and code not in CODES:
        wrong = f"exit code {code}"
    if wrong is None and (match := WRAPPED.search(text)):
        wrong = match[0]
    if wrong is None and "Traceback (most recent call last)" in text:
        wrong = f"a traceback in what is printed: {text.splitlines()[-1]}"
    if wrong is None and (match := CONTROL.search(text)):
        wrong = f"a control character {match[0]!r} is printed: {text[max(match.start() - 60, 0) : match.end() + 20]!r}"
    return code, text, wrong


def try_input(bases: Path, folder: Path, kind: str, seed: int, show: bool = False) -> tuple[bool, str | None]:
    """Whether geopipe made a table of a damaged input, and the first thing that is wrong."""
    import fuzz_inputs

    published, wrong = False, None
    for command in fuzz_inputs.make_input(bases, folder, kind, seed):
        code, text, problem = call(command)
        published = published or (code in (0, 4) and command[0] == "run")
        wrong = wrong or (f"geopipe {command[0]}: {problem}" if problem else None)
        if show:
            print(f"$ geopipe {' '.join(command)}\n{text}[exit {code}]" + (f"\nWRONG: {problem}" if problem else ""))
    return published, wrong


def work(bases: Path, kind: str, seeds: range) -> None:
    """The inputs of a batch, in this process: a line of JSON before and after each."""
    faulthandler.enable()
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
        for seed in seeds:
            print(json.dumps({"begin": seed}), flush=True)
            faulthandler.dump_traceback_later(LIMIT, exit=True)
            done, wrong = try_input(bases, Path(folder) / "input", kind, seed)
            faulthandler.cancel_dump_traceback_later()
            print(json.dumps({"end": seed, "done": done, "wrong": wrong}), flush=True)
            shutil.rmtree(Path(folder) / "input", ignore_errors=True)


def batch(bases: Path, kind: str, seeds: range) -> Report:
    """The inputs of a batch, in processes of their own: a new one after each that died."""
    report, rest = Report(), seeds
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY / "tests")}
    while rest:
        command = [sys.executable, __file__, "--batch", str(bases), kind, str(rest.start), str(rest.stop)]
        process = subprocess.run(
            command, env=environment, capture_output=True, text=True, errors="replace", check=False
        )
        last = None
        for line in process.stdout.splitlines():
            record = json.loads(line)
            last = record
            if "end" in record:
                report.inputs += 1
                report.done += record["done"]
                if record["wrong"]:
                    report.findings.append(f"{kind} {record['end']}: {record['wrong']}")
        if last is None or (process.returncode == 1 and "Timeout (" not in process.stderr):
            raise RuntimeError(f"the harness itself failed: {process.stderr}")
        if "end" in last:
            break
        _, late, stacks = process.stderr.partition("Timeout (")
        what = f"no end after {LIMIT} s" if late else f"the process died ({process.returncode})"
        places = re.findall(r'File "[^"]*/geopipe/(\w+\.py)", line (\d+)', stacks or process.stderr)
        report.inputs += 1
        report.findings.append(f"{kind} {last['begin']}: {what} in {':'.join(places[0]) if places else 'GDAL'}")
        rest = range(last["begin"] + 1, rest.stop)
    return report


def fuzz(count: int, begin: int = 0, kinds: list[str] | None = None) -> Iterator[tuple[str, Report]]:
    """Try `count` inputs, of each kind its share, with seeds from `begin` on; reports of batches as they end."""
    import fuzz_inputs

    chosen = kinds or list(fuzz_inputs.BASES)
    with tempfile.TemporaryDirectory(prefix="fuzz-bases-") as folder:
        fuzz_inputs.make_bases(Path(folder))
        shares = [(k, count // len(chosen) + (i < count % len(chosen))) for i, k in enumerate(chosen)]
        batches = [
            (kind, range(begin + start, begin + min(start + BATCH, share)))
            for start in range(0, count, BATCH)
            for kind, share in shares
            if start < share
        ]
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            for (kind, _), report in zip(
                batches, pool.map(lambda one: batch(Path(folder), *one), batches), strict=True
            ):
                yield kind, report


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--count", type=int, default=5000)
    parser.add_argument("--begin", type=int, default=0, help="the first seed")
    parser.add_argument("--kind", action="append", help="only this kind; may be given again")
    parser.add_argument("--case", nargs=2, metavar=("KIND", "SEED"))
    parser.add_argument("--batch", nargs=4, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.batch:
        bases, kind, start, stop = args.batch
        work(Path(bases), kind, range(int(start), int(stop)))
        return 0
    if args.case:
        import fuzz_inputs

        folder = Path(tempfile.mkdtemp(prefix="fuzz-case-"))
        fuzz_inputs.make_bases(folder / "bases")
        _, wrong = try_input(folder / "bases", folder / "input", args.case[0], int(args.case[1]), show=True)
        print(f"in {folder}")
        return 1 if wrong else 0
    begin, total = time.monotonic(), dict[str, Report]()
    for kind, report in fuzz(args.count, args.begin, args.kind):
        one = total.setdefault(kind, Report())
        one.inputs += report.inputs
        one.done += report.done
        one.findings += report.findings
        for finding in report.findings:
            print(finding, flush=True)
    print(f"{'kind':<8} {'inputs':>7} {'tables':>7} {'refused':>8} {'findings':>9}")
    for kind, one in total.items():
        print(f"{kind:<8} {one.inputs:7,} {one.done:7,} {one.inputs - one.done:8,} {len(one.findings):9,}")
    findings = sum(len(one.findings) for one in total.values())
    print(
        f"{sum(one.inputs for one in total.values()):,} inputs in {time.monotonic() - begin:.0f} s, {findings} findings"
    )
    return 1 if findings else 0


if __name__ == "__main__":
    import surroundings

    OWN = surroundings.folder()
    surroundings.isolate(OWN)
    try:
        CODE = main()
    finally:
        shutil.rmtree(OWN, ignore_errors=True)
    sys.exit(CODE)
