"""The commands: one file each, their shared parts, and the exit codes."""
