"""Mutation testing: does a test fail when a line of the router's heart is changed a little?

    python benchmarks/mutation.py [--files resilience/deadline.py ...] [--sample 100 --seed 1] [--workers 2]
                                  [--quick 0.5] [--again] [--fresh] [--write]

First every test runs once, with the lines it executes recorded, and once more where nothing was changed, in the same
process as later. Then each mutant meets the tests that execute its function, in a process of its own, until one of them
fails. A second call goes on where the first was broken off, as long as the source file is the same; ``--fresh``
forgets, ``--again`` tries the survivors without a reason once more (after a test was added). ``--quick`` leaves out
tests that take longer: more mutants survive, none dies of it. ``--write`` stores ``benchmarks/results/mutation.json``
and the tables of ``docs/mutation.md``. Survivors need a reason in ``benchmarks/mutation_survivors.toml``. Needs the dev
extra, and fork.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import platform
import random
import shutil
import sys
import tempfile
import tomllib
from collections import Counter
from collections.abc import Iterable, Iterator
from functools import cache, partial
from math import inf
from pathlib import Path
from types import CodeType

from mutation_operators import Mutant, mutants
from mutation_runner import Children, Host, Task, attempt, changed_functions, hosted, measure, prepare, run_hosted

HERE = Path(__file__).parent
ROOT = HERE.parent
PACKAGE = "src/orchestrator/"
RESULTS, RECORDS = HERE / "results" / "mutation.json", HERE / "results" / "mutation.jsonl"
LINES = HERE / "results" / "mutation-lines.jsonl"
REASONS = HERE / "mutation_survivors.toml"
PAGE = ROOT / "docs" / "mutation.md"
BEGIN, END = "<!-- tables: written by benchmarks/mutation.py --write -->", "<!-- end of tables -->"

FILES = ("attempt.py", "candidate.py", "core/backoff.py", "core/stats.py", "dispatch.py", "hedge.py", "pipeline.py",
         "pool.py", "recovery.py", "resilience/*.py", "stream.py", "waiting.py")
TESTS = ("unit/resilience/test_*.py", "unit/core/test_*.py", "unit/test_*.py", "property/test_*_model.py",
         "property/test_router_history.py", "scenario/test_invariants.py")  # what finds a lot in a short time
TREE = ("src", "tests", "docs", "pyproject.toml")
GOAL = 90.0  # percent of all mutants

Pair = tuple[dict, Mutant]
Record = dict  # file, digest, inside, line, source, becomes, outcome, by, seconds


def digest(paths: Iterable[Path]) -> str:
    return hashlib.sha256(b"".join(path.read_bytes() for path in paths)).hexdigest()[:16]


def targets(tree: Path, asked: list[str]) -> list[str]:
    found = [path for pattern in asked or FILES for path in sorted((tree / PACKAGE).glob(pattern))]
    return [str(path.relative_to(tree / PACKAGE)) for path in dict.fromkeys(found)]


def stored(path: Path) -> list[dict]:
    return [json.loads(row) for row in path.read_text().splitlines()] if path.exists() else []


class Coverage:
    """Which test executes which lines; asked again only of test files that changed, or when the package did."""

    def __init__(self, tree: Path, children: Children, quick: float) -> None:
        self.quick = quick
        source = digest(sorted((tree / "src").rglob("*.py")))
        shared = [*sorted((tree / "tests").glob("*.py")), *sorted((tree / "tests" / "contract").glob("[!t]*.py"))]
        known = {row["digest"]: row for row in stored(LINES)}
        rows: list[dict] = []
        missing: dict[str, str] = {}
        for pattern in TESTS:
            for path in sorted((tree / "tests").glob(pattern)):
                key = source + digest([path, *shared])
                rows.append(known[key]) if key in known else missing.update({str(path.relative_to(tree)): key})
        files = [PACKAGE + file for file in targets(tree, [])]
        if missing:
            (_, result), = children.run([({}, partial(measure, tree, [*missing], files))])
            if "rows" not in result:
                sys.exit(f"without any mutant, the tests fail: {result}")
            rows += [row | {"digest": missing[test]} for test, row in result["rows"].items()]
        LINES.write_text("".join(json.dumps(row) + "\n" for row in rows))
        self.rows = rows

    @property
    def files(self) -> list[str]:
        """The test files."""
        return sorted({test.split("::")[0] for row in self.rows for test in row["seconds"]})

    def at_import(self, file: str) -> frozenset[int]:
        """Lines that are executed when no test is running."""
        return frozenset(line for row in self.rows for line in row["lines"].get(PACKAGE + file, {}).get("", ()))

    def tests(self, file: str, mutant: Mutant | None, favourites: Counter[str]) -> dict[str, float]:
        """Those that execute a line of the function (or of the file) and what each takes, in seconds.

        Not only those that execute the very line: CPython 3.11 tells no tracer of a coroutine that goes on by an
        exception. They come first, though; then those that have found most, then the quickest.
        """
        found: dict[str, tuple[bool, int, float]] = {}
        scope, lines = (mutant.scope, mutant.lines) if mutant is not None else (frozenset(), frozenset())
        for row in self.rows:
            for test, executed in row["lines"].get(PACKAGE + file, {}).items():
                if test and row["seconds"][test] <= self.quick and (not scope or not scope.isdisjoint(executed)):
                    found[test] = lines.isdisjoint(executed), -favourites[test], row["seconds"][test]
        return {test: found[test][2] for test in sorted(found, key=lambda name: found[name])}

    def everything(self, files: Iterable[str]) -> dict[str, float]:
        """Who executes any line of these files."""
        return {test: seconds for file in files for test, seconds in self.tests(file, None, Counter()).items()}


class Run:
    """One call of this program."""

    def __init__(self, options: argparse.Namespace, tree: Path) -> None:
        self.options = options
        self.tree = tree
        self.files = targets(tree, options.files)
        self.digests = {file: digest([tree / PACKAGE / file]) for file in targets(tree, [])}
        self.records = {} if options.fresh else {
            self.key(row): row for row in stored(RECORDS) if self.digests.get(row["file"]) == row["digest"]
        }
        self.killers = {key: record["by"] for key, record in self.records.items() if record["by"]}
        self.favourites: dict[str, Counter[str]] = {file: Counter() for file in self.files}
        self.children = Children(options.workers)

    @staticmethod
    def key(record: Record) -> tuple[str, str, str, int]:
        return record["file"], record["inside"], record["becomes"], record["nth"]

    def wanted(self) -> list[tuple[Record, Mutant]]:
        """The mutants that are to be tried, each with the record to be."""
        found = []
        for file in self.files:
            path = self.tree / PACKAGE / file
            same: Counter[tuple[str, str]] = Counter()
            for mutant in mutants(path.read_text(), str(path)):
                same[mutant.key] += 1
                record = {"file": file, "digest": self.digests[file], "inside": mutant.inside, "line": mutant.line,
                          "source": mutant.source, "becomes": mutant.becomes, "nth": same[mutant.key]}
                found.append((record, mutant))
        made = {self.key(record) for record, _ in found}
        self.records = {key: record for key, record in self.records.items() if key in made}
        if self.options.sample:
            found = random.Random(self.options.seed).sample(found, min(self.options.sample, len(found)))
        explained = reasons()
        known = {
            key for key, record in self.records.items()
            if not (self.options.again and record["outcome"] == "survived" and key[:3] not in explained)
        }
        return [pair for pair in found if self.key(pair[0]) not in known]

    def tests(self, coverage: Coverage, record: Record, mutant: Mutant) -> dict[str, float]:
        """Who meets a mutant; who has found it before comes first."""
        tests = coverage.tests(record["file"], mutant, self.favourites[record["file"]])
        killer = self.killers.get(self.key(record))
        return {killer: tests[killer]} | tests if killer in tests else tests

    def in_host(self, coverage: Coverage, pairs: list[Pair], host: Host) -> Iterator[Task]:
        """What can be tried by exchanging functions, after the same with nothing exchanged."""
        everything = coverage.everything(record["file"] for record, _ in pairs)
        yield {"untouched": True}, partial(hosted, host, self.tree, {}, everything)
        for record, mutant in pairs:
            path = self.tree / PACKAGE / record["file"]
            functions = self.functions(coverage, record["file"], mutant)
            if host.knows(path, functions):
                tests = self.tests(coverage, record, mutant)
                yield record, partial(hosted, host, path, functions, tests)

    def functions(self, coverage: Coverage, file: str, mutant: Mutant) -> dict[tuple[str, int], CodeType] | None:
        """The functions to be exchanged; None where that would come too late."""
        if not mutant.scope or not mutant.scope.isdisjoint(coverage.at_import(file)):
            return None
        return changed_functions(self.code(file), mutant.code)

    @cache  # noqa: B019  # there is one run
    def code(self, file: str) -> CodeType:
        path = self.tree / PACKAGE / file
        return compile(path.read_text(), str(path), "exec", dont_inherit=True)

    def afresh(self, coverage: Coverage, pairs: list[Pair]) -> Iterator[Task]:
        """What must be imported with the change, after the same without any."""
        for number, (record, mutant) in enumerate(pairs):
            if not number:
                everything = coverage.everything(record["file"] for record, _ in pairs)
                path = self.tree / PACKAGE / record["file"]
                yield {"untouched": True}, partial(attempt, self.tree, path, self.code(record["file"]), everything)
            path = self.tree / PACKAGE / record["file"]
            tests = self.tests(coverage, record, mutant)
            yield record, partial(attempt, self.tree, path, mutant.code, tests)

    def count(self, begun: Record, result: dict) -> None:
        if result["outcome"] == "error":
            sys.exit(f"{begun}: {result['why']}")
        if "untouched" in begun and result["outcome"] != "survived":
            sys.exit(f"without any mutant, the tests fail: {result}")
        if "untouched" not in begun and result["outcome"] == "killed" and "::" in (result["by"] or ""):
            self.favourites[begun["file"]][result["by"]] += 1

    def results(self, pairs: list[Pair]) -> Iterator[tuple[Record, dict]]:
        if not pairs:
            return
        prepare(self.tree)
        coverage = Coverage(self.tree, self.children, self.options.quick)
        done = set()
        for begun, result in run_hosted(coverage.files, self.options.workers, partial(self.in_host, coverage, pairs),
                                        self.count):
            if "untouched" not in begun:
                done.add(self.key(begun))
            yield begun, result
        rest = [pair for pair in pairs if self.key(pair[0]) not in done]
        yield from self.children.run(self.afresh(coverage, rest))

    def go(self) -> None:
        pairs = self.wanted()
        if self.options.fresh:
            RECORDS.unlink(missing_ok=True)
        number = 0
        with RECORDS.open("a") as out:
            for begun, result in self.results(pairs):
                self.count(begun, result)
                if "untouched" in begun:
                    print(f"without any mutant, the tests pass, in {result['seconds']} s", flush=True)
                    continue
                number += 1
                record = begun | result
                self.records[self.key(record)] = record
                out.write(json.dumps(record) + "\n")
                out.flush()
                if record["outcome"] != "killed" or number % 50 == 0 or "why" in record:
                    print(f"{number}/{len(pairs)} {told(record)}", flush=True)


def told(record: Record) -> str:
    return f"{record['outcome']:8} {record['file']}:{record['line']} {record['inside']}: {record['becomes']}" + (
        f" ({record['why']})" if "why" in record else ""
    )


def reasons() -> dict[tuple[str, str, str], str]:
    rows = tomllib.loads(REASONS.read_text()).get("survivor", []) if REASONS.exists() else []
    return {(row["file"], row["inside"], row["becomes"]): row["reason"] for row in rows}


def summary(records: Iterable[Record], files: list[str], command: str) -> dict:
    """What is stored: per file the counts, and every survivor with its reason."""
    known = reasons()
    per_file, survivors = {}, []
    for file in files:
        own = sorted((r for r in records if r["file"] == file), key=lambda r: (r["line"], r["becomes"], r["nth"]))
        if not own:
            continue
        counts = Counter(record["outcome"] for record in own)
        dead = counts["killed"] + counts["timeout"]
        mine = [
            {key: record[key] for key in ("file", "line", "inside", "source", "becomes")}
            | {"reason": known.get((file, record["inside"], record["becomes"]))}
            for record in own if record["outcome"] == "survived"
        ]
        per_file[file] = {
            "mutants": len(own), "killed": counts["killed"], "timeouts": counts["timeout"], "survived": len(mine),
            "open": sum(row["reason"] is None for row in mine), "percent": round(100 * dead / len(own), 1),
        }
        survivors += mine
    keys = ("mutants", "killed", "timeouts", "survived", "open")
    total = {key: sum(row[key] for row in per_file.values()) for key in keys}
    total["percent"] = round(100 * (total["killed"] + total["timeouts"]) / max(total["mutants"], 1), 1)
    return {
        "command": command, "python": platform.python_version(),
        "seconds": round(sum(record["seconds"] for record in records)),
        "total": total, "files": per_file, "survivors": survivors,
    }


def tables(results: dict) -> str:
    """The part of the page that is made of the results."""
    def row(name: str, counts: dict) -> str:
        numbers = (counts[key] for key in ("mutants", "killed", "timeouts", "survived"))
        return f"| {name} | {' | '.join(map(str, numbers))} | {counts['percent']:.1f} % |"

    lines = [f"`{results['command']}`, Python {results['python']}.", "",
             "| File | Mutants | Killed | Timed out | Survived | Killed or timed out |", "|---|---|---|---|---|---|"]
    lines += [row(f"`{file}`", counts) for file, counts in results["files"].items()]
    lines += [row("all", results["total"]), "", "### Survivors", ""]
    for file in results["files"]:
        mine = [survivor for survivor in results["survivors"] if survivor["file"] == file]
        if mine:
            lines += [f"`{file}`", "", "| Line | In | The statement becomes | Why nothing fails |", "|---|---|---|---|"]
            for survivor in mine:
                becomes = survivor["becomes"].replace("|", "\\|")
                reason = survivor["reason"] or "**open**"
                lines.append(f"| {survivor['line']} | `{survivor['inside'] or 'module'}` | `{becomes}` | {reason} |")
            lines.append("")
    return "\n".join(lines).strip()


def write(results: dict) -> None:
    RESULTS.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n")
    text = PAGE.read_text()
    start, end = text.index(BEGIN) + len(BEGIN), text.index(END)
    PAGE.write_text(f"{text[:start]}\n{tables(results)}\n{text[end:]}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", nargs="*", default=[], help="patterns below src/orchestrator; default: the heart")
    parser.add_argument("--sample", type=int, default=0, help="only so many mutants, drawn by the seed")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--quick", type=float, default=inf, help="leave out tests that take more CPU seconds than that")
    parser.add_argument("--again", action="store_true", help="try the survivors without a reason once more")
    parser.add_argument("--fresh", action="store_true", help="forget earlier results")
    parser.add_argument("--write", action="store_true", help="store the results and the page")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:  # edits during the run do no harm
        tree = Path(place)
        for name in TREE:
            copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
            copy(ROOT / name, tree / name)
        run = Run(options, tree)
        run.go()
    given = [argument for argument in sys.argv[1:] if argument not in {"--write", "--again", "--fresh"}]
    results = summary(run.records.values(), run.files, " ".join(["python benchmarks/mutation.py", *given]))
    for file, counts in results["files"].items():
        print(f"{file}: {counts}")
    used = {(row["file"], row["inside"], row["becomes"]) for row in results["survivors"]}
    for stale in sorted(key for key in reasons().keys() - used if key[0] in run.files):
        print(f"a reason without a survivor: {stale}")
    for survivor in results["survivors"]:
        if survivor["reason"] is None:
            print(f"open: {survivor['file']}:{survivor['line']} {survivor['inside']}: {survivor['becomes']}")
    if options.write:
        write(results)
    sys.exit(results["total"]["percent"] < GOAL or results["total"]["open"] > 0)


if __name__ == "__main__":
    main()
