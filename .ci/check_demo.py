"""Two runs of the demo must reach 98.5 % on the held-out digits and end with bit-identical checkpoints."""

import json
import sys
from pathlib import Path

REQUIRED_ACCURACY = 0.985


def main(first: Path, second: Path) -> None:
    """Exit with a message unless both folders hold the same good run."""
    from resnet_jax.checkpoint.folder import digest
    from resnet_jax.inference.predictor import restore_run

    digests = [digest(restore_run(workdir).state.variables) for workdir in (first, second)]
    records = [json.loads(line) for line in (first / "metrics.jsonl").read_text().splitlines()]
    accuracy = next(record["test_accuracy"] for record in reversed(records) if "test_accuracy" in record)
    print(f"demo: test accuracy {accuracy:.4f}, parameters {digests[0][:16]} and {digests[1][:16]}")
    if accuracy < REQUIRED_ACCURACY:
        sys.exit(f"the demo's test accuracy {accuracy:.4f} is below {REQUIRED_ACCURACY}")
    if digests[0] != digests[1]:
        sys.exit("two demo runs with one seed ended with different parameters")
    if not (first / "curves.png").stat().st_size:
        sys.exit("the demo wrote no curves.png")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
