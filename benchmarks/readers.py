"""Seconds and peak memory of reading facts: EntityQuestions, and a million generated rows in three forms.

    python benchmarks/readers.py --entityquestions FOLDER [--rows 1000000] [--work FOLDER]

Each source is read in a process of its own. Memory is by what its peak (ru_maxrss) exceeds the one before
reading, so a file held whole while it is parsed counts, and Python itself does not. A process inherits the
peak of the one that starts it, so the rows are written by another.
"""

import argparse
import json
import multiprocessing
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

MEASURE = """
import json, resource, sys, time
from pretrainrl_jax.config import Config, FactsConfig
from pretrainrl_jax.facts.reading import read_facts

def peak():
    kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return kilobytes / 1024 if sys.platform != "darwin" else kilobytes / 1024**2

before, began, worked = peak(), time.perf_counter(), time.process_time()
facts = read_facts(Config(facts=FactsConfig(path=sys.argv[1]))).facts
print(json.dumps([len(facts), time.perf_counter() - began, time.process_time() - worked, peak() - before]))
"""
BATCH = 10_000


def rows(count: int) -> Iterator[dict]:
    """Rows much as PopQA's: a question of some fifty characters, two answers, one of twenty categories."""
    for number in range(count):
        yield {
            "id": str(number),
            "question": f"Who was the first known composer of Sonata no. {number}?",
            "answers": [f"Composer {number % 9973}", f"C. {number % 9973}"],
            "category": f"relation {number % 20}",
            "subject": f"Sonata no. {number}",
            "popularity": float(number % 1000),
        }


def write(paths: list[Path], count: int) -> None:
    """The rows as JSON Lines, CSV and Parquet."""
    import csv

    import pyarrow as pa
    import pyarrow.parquet as pq

    with paths[0].open("w") as lines, paths[1].open("w", newline="") as table:
        writer = csv.writer(table)
        writer.writerow(next(rows(1)))
        for row in rows(count):
            lines.write(json.dumps(row) + "\n")
            writer.writerow(json.dumps(v) if isinstance(v, list) else v for v in row.values())
    batch, parquet = [], None
    for number, row in enumerate(rows(count), start=1):
        batch.append(row)
        if len(batch) == BATCH or number == count:
            part = pa.Table.from_pylist(batch)
            parquet = parquet or pq.ParquetWriter(paths[2], part.schema)
            parquet.write_table(part)
            batch = []
    if parquet:
        parquet.close()


def main() -> None:
    """Write, read, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--entityquestions", type=Path, help="folder of the data set; left out without it")
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--work", type=Path, help="where the generated files lie while they are read")
    options = parser.parse_args()
    print("| source | facts | seconds | of them CPU | peak MB | bytes a fact |\n" + "|---" * 6 + "|")
    with tempfile.TemporaryDirectory(dir=options.work) as folder:
        sources = [("EntityQuestions", options.entityquestions)] if options.entityquestions else []
        paths = [Path(folder) / f"facts.{form}" for form in ("jsonl", "csv", "parquet")]
        writer = multiprocessing.get_context("spawn").Process(target=write, args=(paths, options.rows))
        writer.start()
        writer.join()
        sources += [(path.suffix[1:].upper(), path) for path in paths]
        for name, path in sources:
            ran = subprocess.run(
                [sys.executable, "-c", MEASURE, str(path)], capture_output=True, text=True, check=True
            )
            count, seconds, work, peak = json.loads(ran.stdout)
            each = peak * 1024**2 / count
            print(
                f"| {name} | {count:,} | {seconds:.1f} | {work:.1f} | {peak:,.0f} | {each:,.0f} |", flush=True
            )


if __name__ == "__main__":
    main()
