"""Faults really made, and what became of them: `make faults`, or `make faults FAULTS_MINUTES=2` for a cut.

Prints a report as it goes, writes it to --to as JSON, and exits with 1 if a promise was broken.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

# Of the time: how much each part may take, and how many faults it makes in a whole campaign.
PARTS = {
    "kills of one process": (0.18, 80),
    "kills of two processes": (0.38, 60),
    "corruptions": (0.10, 242),
    "malformed": (0.05, 40_000),
    "full disk": (0.07, 10),
    "buckets": (0.16, 40),
    "latency": (0.03, 5),
    "detection": (0.03, 9),
}
WHOLE_MINUTES = 35.0
# What a whole campaign must have tried; fewer is told as a broken promise.
LEAST = {
    "kills of one process": 50, "kills of two processes": 40, "corruptions": 200, "malformed": 10_000, "full disk": 5,
    "buckets": 30,
}  # fmt: skip


def run(part, folder, count, deadline, seed):
    """The report of a part."""
    import buckets
    import corruptions
    import detection
    import full_disk
    import kills
    import latency
    import malformed

    if part.startswith("kills"):
        num_processes = 1 if part.endswith("one process") else 2
        campaign = kills.Campaign(folder, num_processes, seed)
        campaign.run(count, deadline, num_chains=2 if num_processes == 1 else 1)
        return campaign.report()
    modules = {
        "corruptions": corruptions, "malformed": malformed, "full disk": full_disk, "latency": latency,
        "detection": detection, "buckets": buckets,
    }  # fmt: skip
    return modules[part].campaign(folder, count, deadline, seed)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=WHOLE_MINUTES, help=f"default: {WHOLE_MINUTES:g}, the whole")
    parser.add_argument("--seed", type=int, default=0, help="of everything random (default: 0)")
    parser.add_argument("--only", choices=list(PARTS), action="append", help="this part, and others so named")
    parser.add_argument("--to", type=Path, help="write the reports there, as JSON")
    arguments = parser.parse_args()
    if arguments.minutes < WHOLE_MINUTES / 2:  # shorter runs, or the unbroken ones would take most of the time
        os.environ.setdefault("RESNET_JAX_FAULTS_STEPS", "120")
    share = min(arguments.minutes / WHOLE_MINUTES, 1.0)
    reports, begun = [], time.monotonic()
    for part, (part_of_time, count) in PARTS.items():
        if arguments.only and part not in arguments.only:
            continue
        with tempfile.TemporaryDirectory(prefix="resnet_jax-faults-") as folder:
            started = time.monotonic()
            deadline = started + 60.0 * arguments.minutes * part_of_time
            report = run(part, Path(folder), max(round(share * count), 2), deadline, arguments.seed)
        least = LEAST.get(part, 1) if arguments.minutes >= WHOLE_MINUTES else 0
        if report["count"] < least:
            report["failures"].append(f"only {report['count']} tried of at least {least}")
        report["seconds"] = round(time.monotonic() - started, 1)
        reports.append(report)
        print(f"{report['fault']}: {report['tried']}\n    {report['result']} ({report['seconds']:.0f} s)", flush=True)
        for failure in report["failures"]:
            print(f"    BROKEN: {failure}", flush=True)
    broken = sum(len(report["failures"]) for report in reports)
    print(f"{broken} promises broken, {time.monotonic() - begun:.0f} s")
    if arguments.to:
        arguments.to.write_text(json.dumps(reports, indent=1) + "\n")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
