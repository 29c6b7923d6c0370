"""python -m resnet_jax COMMAND."""

import sys


def main() -> int:
    """Runs the command; if the commands cannot be imported, prints the findings that `doctor` has without them."""
    try:
        from resnet_jax.cli.main import main as run
    except (ImportError, RuntimeError) as reason:  # RuntimeError: of a jax that does not go with its jaxlib
        from resnet_jax.cli.doctor import print_findings
        from resnet_jax.cli.exit_codes import EXIT_USAGE
        from resnet_jax.preflight.packages import examine_packages, not_importable

        if sys.argv[1:2] == ["doctor"]:
            return print_findings([*examine_packages(), not_importable(reason)], "--json" in sys.argv)
        line = (str(reason).splitlines() or [type(reason).__name__])[0]
        print(f"error: {line}: python -m resnet_jax doctor tells what to install", file=sys.stderr)
        return EXIT_USAGE
    return run()


if __name__ == "__main__":
    sys.exit(main())
