#!/usr/bin/env python3
"""How far predictions of latency are off on cut networks they were not fitted to, and how long the
tables take to measure. Prints a table and writes experiments/results/latency.json.

  .venv/bin/python experiments/bench/latency.py resnet56 mobilenet_v2 vit_b_32.pt2
Run it on an otherwise idle machine. A model is what `espalier inspect` takes; every one is measured
anew, at each batch size, in its own process.
"""
import argparse
import json
import subprocess
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def measure(model, batch, threads, precision):
    command = [str(ROOT / "build/espalier"), "inspect", model, "--latency", "--latency-cache", "none",
               "--batch", str(batch), "--threads", str(threads), "--precision", precision, "--json"]
    start = time.perf_counter()
    run = subprocess.run(command, stdout=subprocess.PIPE, check=True)
    latency = json.loads(run.stdout.splitlines()[-1])
    uncut = next(row["full"] for row in latency["reach"] if row["kind"] == "latency_ms")
    return {"model": Path(model).name, "batch": batch, "uncut_ms": uncut,
            "seconds": time.perf_counter() - start, **latency["latency"]}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="+")
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 16])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--precision", default="fp32", choices=["fp32", "bf16"])
    parser.add_argument("--out", type=Path, default=ROOT / "experiments/results/latency.json")
    options = parser.parse_args()
    rows = []
    print("| network | batch | uncut | median error | worst | points | measured in |")
    print("|---|---|---|---|---|---|---|")
    for model in options.models:
        for batch in options.batch:
            row = measure(model, batch, options.threads, options.precision)
            rows.append(row)
            print(f"| {row['model']} | {batch} | {row['uncut_ms']:.2f} ms "
                  f"| {100 * row['median_error']:.1f} % | {100 * row['worst_error']:.1f} % "
                  f"| {row['points']} ({row['measured']} different) | {row['seconds']:.0f} s |",
                  flush=True)
    options.out.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
