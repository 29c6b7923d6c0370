"""python -m resnet_jax COMMAND."""

import sys
from pathlib import Path


def main(words: list[str] | None = None) -> int:
    """Runs the command; if the commands cannot be imported, prints the findings that `doctor` has without them.

    Args:
      words: of the command line; None: the process's own.
    """
    words = sys.argv[1:] if words is None else words
    try:
        from resnet_jax.cli.main import main as run
    except (ImportError, RuntimeError) as reason:  # RuntimeError: of a jax that does not go with its jaxlib
        from resnet_jax.cli.doctor import print_findings
        from resnet_jax.cli.exit_codes import EXIT_USAGE
        from resnet_jax.preflight.packages import examine_packages, not_importable

        if words[:1] == ["doctor"]:
            return print_findings([*examine_packages(), not_importable(reason)], "--json" in words)
        line = (str(reason).splitlines() or [type(reason).__name__])[0]
        own = Path(__file__).parents[1] / ".venv" / "bin" / "activate"
        advice = f"activate the environment beside it (source {own}), or see " if own.exists() else ""
        print(f"error: {line}: {advice}python -m resnet_jax doctor, which lists what to install", file=sys.stderr)
        return EXIT_USAGE
    return run(words)


if __name__ == "__main__":
    sys.exit(main())
