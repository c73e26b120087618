"""What was noticed about a data file, in a form that a person reads and a program filters.

An "error" means the file must not be trained on as it is, a "warning" that something is unusual but understood, "info"
states a fact. `refuse_errors` is the one place where findings become an exception.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from shared_data.errors import DataError

ERROR, WARNING, INFO = "error", "warning", "info"
ROWS_NAMED = 8  # how many row numbers a message spells out


@dataclass(frozen=True)
class Finding:
    """One observation.

    code       stable short name (``label-empty``, ``clip-nan``, ``counts`` ...)
    severity   "error", "warning" or "info"
    message    one sentence for people
    where      file member, key or split it is about
    count      how many rows, clips or members are concerned; 0 where counting makes no sense
    rows       the first few row numbers (0-based, in the source file)
    next_step  what to do about it
    """

    code: str
    severity: str
    message: str
    where: str = ""
    count: int = 0
    rows: tuple[int, ...] = ()
    next_step: str = ""

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "code": self.code, "severity": self.severity, "message": self.message, "where": self.where,
            "count": self.count, "rows": list(self.rows), "next_step": self.next_step,
        }  # fmt: skip


def finding_from_dict(values: dict[str, Any]) -> Finding:
    """Inverse of `Finding.as_dict`; unknown fields are ignored so that a newer writer can be read."""
    known = {name: values[name] for name in Finding.__dataclass_fields__ if name in values}
    known["rows"] = tuple(int(row) for row in known.get("rows", ()))
    finding = Finding(**known)
    texts = (finding.code, finding.message, finding.where, finding.next_step)
    if finding.severity not in (ERROR, WARNING, INFO) or not all(isinstance(text, str) for text in texts):
        raise ValueError(f"a finding of no known form: {str(values)[:100]}")
    return finding


def name_rows(rows: Sequence[int]) -> str:
    """'row 3' or 'rows 3, 9, 12 and 40 more'."""
    listed = ", ".join(str(row) for row in rows[:ROWS_NAMED])
    more = f" and {len(rows) - ROWS_NAMED} more" if len(rows) > ROWS_NAMED else ""
    return f"row{'s' if len(rows) > 1 else ''} {listed}{more}"


def rows_finding(code: str, severity: str, what: str, *, where: str, rows: Sequence[int], next_step: str = "") -> Finding:
    """A finding about certain rows of `where`; the message ends with their numbers."""
    plain = [int(row) for row in rows]
    named = tuple(plain[:ROWS_NAMED])
    return Finding(code, severity, f"{what}: {name_rows(plain)}", where, len(plain), named, next_step)


def errors_in(findings: Iterable[Finding]) -> list[Finding]:
    """The findings that forbid using the file."""
    return [finding for finding in findings if finding.severity == ERROR]


def refuse_errors(findings: Iterable[Finding], path: object) -> None:
    """Raise `DataError` (exit code 65) for the first error, naming how many others there are."""
    errors = errors_in(findings)
    if not errors:
        return
    first = errors[0]
    others = f" ({len(errors) - 1} more: {', '.join(e.code for e in errors[1:6])})" if len(errors) > 1 else ""
    raise DataError(
        f"{first.message}{others}",
        where=f"{path}, {first.where}" if first.where else str(path),
        expected="a file that `sal data check` passes",
        next_step=first.next_step or f"see all findings with: sal data check {path}",
    )
