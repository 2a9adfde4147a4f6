"""The table of settings in operations.md, from the settings themselves.

python docs/settings_table.py           writes it (make docs)
python docs/settings_table.py --check   exit status 1 when it is stale
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from server.settings import ENV_PREFIX, Settings

PAGE = Path(__file__).with_name("operations.md")
TABLE = re.compile(r"(?<=<!-- settings: made by `make docs` -->\n).*?(?=<!-- end of settings -->)", re.DOTALL)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Writes the table of settings into docs/operations.md.")
    parser.add_argument("--check", action="store_true", help="write nothing; exit status 1 when the table is stale")
    arguments = parser.parse_args(argv)
    page = PAGE.read_text()
    fresh = TABLE.sub(lambda _: table(), page)
    if arguments.check:
        return _report(is_stale=fresh != page)
    PAGE.write_text(fresh)
    return 0


def table() -> str:
    lines = ["| variable | default | what |", "|---|---|---|"]
    for name, field in Settings.model_fields.items():
        default = _shown(field.default)
        lines.append(f"| `{ENV_PREFIX}{name.upper()}` | {default} | {field.description}{_choices(field.annotation)} |")
    return "\n".join(lines) + "\n"


def _shown(default: object) -> str:
    return "" if default in ((), "") else f"`{str(default).lower() if isinstance(default, bool) else default}`"


def _choices(annotation: Any) -> str:
    if get_origin(annotation) is not Literal:
        return ""
    return f" ({', '.join(f'`{choice}`' for choice in get_args(annotation))})"


def _report(*, is_stale: bool) -> int:
    if is_stale:
        print(f"The table of settings in {PAGE.name} is stale. Run: make docs", file=sys.stderr)
    return int(is_stale)


if __name__ == "__main__":
    sys.exit(main())
