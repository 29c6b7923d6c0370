"""The finding of one check: whether all is well, and what to do if not."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from resnet_jax.errors import RunError, UserError, truncate

OK, WARNING, ERROR = "ok", "warning", "error"


@dataclass(frozen=True)
class Finding:
    """A line of the report. status: OK | WARNING (a run can go on) | ERROR. remedy: a command or setting; "" if OK."""

    status: str
    subject: str
    found: str
    remedy: str = ""


def ok(subject: str, found: str) -> Finding:
    """Returns that all is well."""
    return Finding(OK, subject, found)


def warning(subject: str, found: str, remedy: str) -> Finding:
    """Returns a finding that a run can live with."""
    return Finding(WARNING, subject, found, remedy)


def error(subject: str, found: str, remedy: str) -> Finding:
    """Returns a finding that makes a run fail."""
    return Finding(ERROR, subject, found, remedy)


def refused(subject: str, reason: UserError, remedy: str = "change what it names") -> Finding:
    """Returns the error that a run would end with; its message ends with what to do, unless `remedy` must say it."""
    text = " ".join(str(reason).split())
    cut = max(text.rfind("; "), text.rfind(": "))
    return error(subject, text[:cut], text[cut + 2 :]) if cut > 0 else error(subject, text, remedy)


def checked(subject: str, check: Callable[[], Iterable[Finding]]) -> list[Finding]:
    """Returns the findings of `check`; an error is one more finding, so that the other checks still run."""
    findings: list[Finding] = []
    try:
        findings.extend(check())
    except UserError as reason:
        findings.append(refused(subject, reason))
    except RunError as reason:  # a fault of the machine
        findings.append(error(subject, str(reason), "put that right"))
    except Exception as reason:  # a check may meet anything: a broken package, a file system that hangs up
        line = (str(reason).strip().splitlines() or [""])[0]
        found = f"could not be checked ({type(reason).__name__}: {truncate(line)})"
        findings.append(error(subject, found, "put that right, or tell the maintainers of this line"))
    return findings
