#!/usr/bin/env python3
"""Fails on an include that points up: from a room, or a part of env, to one above it.

usage: layering_test.py [ROOT]   checks the tree, after checking itself on planted faults
"""

import re
import sys
import tempfile
from pathlib import Path

# What each room or part of env may include besides itself. A path ending in .h allows that one file.
BASE = ["env/base"]
GRAPH = BASE + ["env/graph"]
SPACE = GRAPH + ["env/space"]
ENV = ["env/" + part for part in "base device graph models space cost data task train eval latency".split()]
ALLOWED = {
    "env/base": [],
    "env/device": BASE,
    "env/graph": BASE,
    "env/models": GRAPH,
    "env/space": GRAPH,
    "env/cost": SPACE,
    "env/data": GRAPH,
    "env/task": GRAPH + ["env/data"],
    # A mask and a cut are described by a plan; training must not know how plans are found.
    "env/train": GRAPH + ["env/device", "env/data", "env/task", "env/space/plan.h"],
    "env/eval": GRAPH + ["env/device", "env/data", "env/task", "env/train", "env/space/plan.h"],
    "env/latency": SPACE + ["env/cost", "env/eval"],
    "criteria": ENV,
    "controllers": ENV + ["criteria"],
    "agents": ENV + ["criteria"],
    "search": ENV + ["criteria", "controllers", "agents"],
    "experiments": ENV + ["criteria", "controllers", "agents", "search"],
}
ROOMS = sorted({name.split("/")[0] for name in ALLOWED})
INCLUDE = re.compile(r'^\s*#\s*include\s*"([^"]+)"')


def room_of(path):
    """'env/graph/io.h' -> 'env/graph'; None for what is in no room."""
    parts = path.split("/")
    name = "/".join(parts[:2]) if parts[0] == "env" else parts[0]
    return name if name in ALLOWED else None


def problem_with(source, target):
    """What is wrong with including `target` in `source`, or None."""
    if target.startswith(".") or room_of(target) is None:
        return "is not a path from the repository root into a room"
    own, other = room_of(source), room_of(target)
    if own == other or other in ALLOWED[own] or target in ALLOWED[own]:
        return None
    return f"points up: {own} may not include {other}"


def check(root):
    """Returns (number of files, list of problems)."""
    problems, count = [], 0
    for room in ROOMS:
        for path in sorted((root / room).rglob("*")):
            if path.suffix not in (".h", ".cc"):
                continue
            count += 1
            source = path.relative_to(root).as_posix()
            if room_of(source) is None:
                problems.append(f"{source}: in no room")
                continue
            for number, line in enumerate(path.read_text().splitlines(), start=1):
                found = INCLUDE.match(line)
                problem = found and problem_with(source, found.group(1))
                if problem:
                    problems.append(f"{source}:{number}: '{found.group(1)}' {problem}")
    return count, problems


def check_itself():
    """Plants includes that must be found, and some that must not."""
    bad = [("env/base/a.h", "env/graph/network.h"), ("env/graph/a.cc", "env/models/models.h"),
           ("env/space/a.cc", "env/cost/cost.h"), ("env/data/a.cc", "env/train/trainer.h"),
           ("env/train/a.cc", "env/eval/evaluator.h"), ("env/train/a.h", "env/space/space.h"),
           ("env/eval/a.cc", "search/strategy.h"), ("criteria/a.h", "controllers/gate.h"),
           ("search/a.cc", "experiments/main.h"), ("agents/a.cc", "search/strategy.h"),
           ("criteria/a.cc", "../env/base/rng.h"), ("criteria/a.cc", "criterion.h"),
           ("env/stray.cc", "env/base/rng.h")]
    good = [("env/base/b.cc", "env/base/rng.h"), ("env/train/b.h", "env/space/plan.h"),
            ("env/cost/b.cc", "env/space/space.h"), ("search/deep/b.cc", "agents/agent.h"),
            ("experiments/b.cc", "search/strategy.h")]
    for source, target in bad + good:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / source
            path.parent.mkdir(parents=True)
            path.write_text(f'#include <vector>\n  # include "{target}"\n')
            count, problems = check(Path(folder))
            assert count == 1, (source, count)
            expected = 1 if (source, target) in bad else 0
            assert len(problems) == expected, (source, target, problems)


def main():
    root = Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).parent.parent).resolve()
    check_itself()
    count, problems = check(root)
    for problem in problems:
        print(problem)
    if count == 0:
        print(f"no sources below {root}")
    print(f"{count} files, {len(problems)} problems")
    sys.exit(1 if problems or count == 0 else 0)


if __name__ == "__main__":
    main()
