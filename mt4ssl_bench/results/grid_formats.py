"""Tables as Markdown, LaTeX and HTML, with every name escaped."""

import html
from collections.abc import Callable, Iterable, Sequence

from mt4ssl_bench.results.grid import Entry, Grid
from mt4ssl_bench.text import flat, latex, markdown

RIGHT = ' style="text-align: right"'


def to_markdown(grids: Sequence[Grid]) -> str:
    """Return tables in GitHub's Markdown."""
    lines: list[str] = []
    for table in grids:
        lines += [f"### {markdown(table.title)}", ""] if table.title else []
        lines.append(_bars(markdown(heading.text) for heading in table.headings))
        lines.append(_bars("--:" if h.kind == "number" else ":--" for h in table.headings))
        for row in table.rows:
            lines.append(_bars(_marked(entry, markdown, "**{}**", " {}".format) for entry in row))
        lines += ["", *(f"* {markdown(note)}" for note in table.all_notes()), ""]
    return "\n".join(lines)


def to_latex(grids: Sequence[Grid], *, intervals: bool = False) -> str:
    """Return a tabular for each table, for the package booktabs; titles and notes are comments.

    Args:
        grids: Tables.
        intervals: Whether intervals stand beside the numbers.
    """
    lines = [r"% \usepackage{booktabs}"]

    def below(text: str) -> str:
        return rf" {{\footnotesize {latex(text)}}}" if intervals else ""

    for table in grids:
        lines += ["", f"% {flat(table.title)}"] if table.title else [""]
        spec = "".join("r" if heading.kind == "number" else "l" for heading in table.headings)
        lines += [rf"\begin{{tabular}}{{{spec}}}", r"\toprule"]
        lines += [_ampersands(latex(heading.text) for heading in table.headings), r"\midrule"]
        for row in table.rows:
            lines.append(_ampersands(_marked(e, latex, r"\textbf{{{}}}", below) for e in row))
        lines += [r"\bottomrule", r"\end{tabular}"]
        lines += [f"% {note}" for note in table.all_notes(intervals=intervals)]
    return "\n".join(lines)


def to_html(grids: Sequence[Grid]) -> str:
    """Return a <table> for each table, to stand in a page: title and notes are part of it."""
    lines: list[str] = []
    for table in grids:
        lines.append("<table>")
        lines += [f"<caption>{_html(table.title)}</caption>"] if table.title else []
        sides = [RIGHT if heading.kind == "number" else "" for heading in table.headings]
        names = [_html(heading.text) for heading in table.headings]
        headings = (
            f'<th scope="col"{side}>{name}</th>' for side, name in zip(sides, names, strict=True)
        )
        lines += ["<thead>", f"<tr>{''.join(headings)}</tr>", "</thead>", "<tbody>"]
        for row in table.rows:
            texts = (
                _marked(entry, _html, "<b>{}</b>", " <small>{}</small>".format) for entry in row
            )
            cells = (f"<td{side}>{text}</td>" for side, text in zip(sides, texts, strict=True))
            lines.append(f"<tr>{''.join(cells)}</tr>")
        lines.append("</tbody>")
        if notes := table.all_notes():
            shown = "<br>\n".join(map(_html, notes))
            lines.append(f'<tfoot><tr><td colspan="{len(names)}">{shown}</td></tr></tfoot>')
        lines.append("</table>")
    return "\n".join(lines)


def _marked(
    entry: Entry, escape: Callable[[str], str], bold: str, below: Callable[[str], str]
) -> str:
    """Return an entry: its text escaped, in the form `bold` if it is, then what belongs to it."""
    text = bold.format(escape(entry.text)) if entry.bold else escape(entry.text)
    return text + (below(entry.below) if entry.below else "")


def _html(text: str) -> str:
    return html.escape(flat(text))


def _bars(texts: Iterable[str]) -> str:
    return "| " + " | ".join(texts) + " |"


def _ampersands(texts: Iterable[str]) -> str:
    return " & ".join(texts) + r" \\"
