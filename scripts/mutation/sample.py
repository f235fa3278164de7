"""Keep a random part of the mutants of a session, those of some lines: python sample.py SESSION COUNT [FIRST-LAST,...]."""

import random
import sqlite3
import sys


def main() -> None:
    """Take all other mutants that have not been run yet out of the session."""
    path, count, *lines = sys.argv[1:]
    spans = [span.split("-") for span in lines[0].split(",")] if lines and lines[0] else [("1", "1000000")]
    with sqlite3.connect(path) as session:
        waiting = session.execute(
            "select job_id, start_pos_row from mutation_specs where job_id not in (select job_id from work_results)"
        ).fetchall()
        within = sorted(job for job, row in waiting if any(int(a) <= row <= int(b) for a, b in spans))
        kept = set(random.Random(1).sample(within, min(int(count), len(within))))
        for job, _ in waiting:
            if job not in kept:
                session.execute("delete from mutation_specs where job_id = ?", (job,))
                session.execute("delete from work_items where job_id = ?", (job,))
    print(f"mutants: {len(kept)} of {len(within)}")


if __name__ == "__main__":
    main()
