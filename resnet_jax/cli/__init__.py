"""The commands: one file each, what they share, and the exit codes."""
