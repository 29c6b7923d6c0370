"""The exit codes of all commands."""

EXIT_DONE = 0
# Anything that is no fault of the input: a full disk, a lost process, a defect.
EXIT_FAILED = 1
# Bad usage, config, data or file, reported in one line.
EXIT_USAGE = 2
# Interrupted and saved: the same command continues.
EXIT_INTERRUPTED = 75
