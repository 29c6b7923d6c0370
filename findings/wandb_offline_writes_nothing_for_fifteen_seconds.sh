#!/usr/bin/env bash
# wandb in offline mode: `run.log(..., commit=True)` returns, but the run's `.wandb` file holds only its header of 7
# bytes until 15 seconds have passed or the run finishes. The rows are in the memory of a second process. You would
# expect an offline run to be on disk once it is logged. If SIGKILL ends the program, as when memory runs out, these
# rows are lost. The setting `x_transaction_log_flush_interval` (seconds) shortens the wait; the callback of
# docs/experiments.md sets it.
set -euo pipefail
python=${PYTHON:-python3}
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

"$python" -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check "wandb==0.31.0"

cat > "$folder/log.py" <<'END'
import glob
import os
import sys
import time

os.environ |= {"WANDB_MODE": "offline", "WANDB_SILENT": "true"}
import wandb

print("wandb", wandb.__version__)
for interval in (None, 0.1):
    folder = f"{sys.argv[1]}/{interval}"
    os.mkdir(folder)
    settings = None if interval is None else wandb.Settings(x_transaction_log_flush_interval=interval)
    run = wandb.init(project="any", dir=folder, settings=settings)
    (path,) = glob.glob(f"{folder}/wandb/offline-run-*/*.wandb")
    created, sizes = os.stat(path).st_ctime, []
    for step in range(40):
        run.log({"loss": 1.0 / (step + 1)}, step=step, commit=True)
        time.sleep(0.5)
        sizes.append((time.time() - created, os.path.getsize(path)))
    early = [size for seconds, size in sizes if seconds < 12]
    print(f"interval {interval or 'not set'}: {len(early)} rows were logged in 12 seconds, and the file has {early[-1]} bytes")
    if interval is None:
        assert set(early) == {7}, "rows are on disk before 12 seconds have passed now"
    else:
        assert early[-1] > 1000, "the setting has no effect now"
    run.finish()
END
"$folder/venv/bin/python" "$folder/log.py" "$folder"
