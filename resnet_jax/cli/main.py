"""The commands: parse, call, print, exit codes.

Results go to standard output (with --json one object), progress and warnings to standard error. Exit codes: 0 done;
2 bad usage, config, data or file, reported in one line; 75 interrupted and saved, run again to continue; 1 anything
else.
"""

import io
import os
import signal
import sys
import traceback
from collections.abc import Sequence

import jax

from resnet_jax.cli.exit_codes import EXIT_FAILED, EXIT_INTERRUPTED, EXIT_USAGE
from resnet_jax.cli.parser import parse
from resnet_jax.distributed import processes as distributed
from resnet_jax.distributed.log_handler import install_log_handler
from resnet_jax.errors import FAULTS_OF_THE_DISK, Preempted, RunError, UserError, first_line
from resnet_jax.runtime import prepare_process

# The commands that many processes may run together.
MANY_PROCESSES = ("train", "evaluate")
OUT_OF_MEMORY = (
    "out of memory: take a smaller batch_size; in training config.accumulation_steps=2 or "
    "config.model_args.remat=True needs less too, the latter also in a run that has begun"
)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command of `argv` (sys.argv's if None) and returns its exit code."""
    try:
        code = _run_command(argv)
    except (Exception, KeyboardInterrupt) as error:
        if _is_out_of_memory(error):
            print(f"{distributed.prefix()}error: {OUT_OF_MEMORY} ({first_line(error)})", file=sys.stderr)
            return distributed.leave(EXIT_FAILED)
        if not distributed.prefix():
            raise
        if isinstance(error, jax.errors.JaxRuntimeError):
            reason = str(error).splitlines()[0]
            print(f"{distributed.prefix()}error: {distributed.LOST} ({reason})", file=sys.stderr)
        else:
            traceback.print_exc()
        code = EXIT_FAILED
    return distributed.leave(code)


def _is_out_of_memory(error: BaseException) -> bool:
    return isinstance(error, MemoryError) or (
        isinstance(error, jax.errors.JaxRuntimeError) and str(error).startswith("RESOURCE_EXHAUSTED")
    )


def _run_command(argv: Sequence[str] | None) -> int:
    prepare_process()
    install_log_handler()
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):  # None where they were closed: `<&-`, `>&-`
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115, it stays open as long as the process runs
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a path may hold bytes that are no text
            stream.reconfigure(errors="backslashreplace")
    try:
        arguments = parse(argv)
        if arguments.command in MANY_PROCESSES:
            distributed.start_processes(arguments.coordinator, arguments.num_processes, arguments.process_id)
        code = arguments.run(arguments)
        _write_out()
        return code
    except UserError as error:
        print(f"{distributed.prefix()}error: {' '.join(str(error).split())}", file=sys.stderr)
        return EXIT_USAGE
    except RunError as error:
        print(f"{distributed.prefix()}error: {error}", file=sys.stderr)
        return EXIT_FAILED
    except Preempted as error:
        where = "before the first step; the same command starts again"
        print(f"{distributed.prefix()}interrupted by {error} {where}", file=sys.stderr)
        return EXIT_INTERRUPTED
    except KeyboardInterrupt:  # of a command that saves nothing
        print(f"{distributed.prefix()}interrupted", file=sys.stderr)
        return 128 + signal.SIGINT
    except BrokenPipeError:  # the reader of our output has gone, as in `… list | head`
        _leave_out()
        return EXIT_FAILED
    except OSError as error:
        if error.errno in FAULTS_OF_THE_DISK:
            where = f"{error.filename}: " if error.filename else ""
            print(f"{distributed.prefix()}error: {where}{error.strerror}", file=sys.stderr)
            return EXIT_FAILED
        if error.filename is None:
            raise
        print(f"{distributed.prefix()}error: {error.filename}: {error.strerror}", file=sys.stderr)
        return EXIT_USAGE


def _write_out() -> None:
    """Writes what is left of the output: an error of this is the command's, not one of the end of the process."""
    try:
        sys.stdout.flush()
    except OSError:
        _leave_out()
        raise


def _leave_out() -> None:
    """Has Python not try again, when it ends, to write the output."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
