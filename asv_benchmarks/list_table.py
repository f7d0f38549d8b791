"""Tables in reStructuredText, for pages that include them."""

from collections.abc import Iterable, Sequence


def list_table(rows: Iterable[Sequence[str]], title: str = "") -> str:
    """Return rows, the first of which is the header, as a list-table."""
    lines = [f".. list-table:: {title}".rstrip(), "   :header-rows: 1", ""]
    for cells in rows:
        lines += [f"   {'  -' if k else '* -'} {cell}".rstrip() for k, cell in enumerate(cells)]
    return "\n".join(lines) + "\n"
