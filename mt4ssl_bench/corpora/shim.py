# ruff: noqa: ANN001, ANN201, D103, ARG001
# mypy: disable-error-code="no-untyped-def"
"""TEMPORARY."""

from mt4ssl_bench.corpora import prepare as p


def prepare(
    rows,
    out,
    *,
    source,
    name,
    licence,
    lists=None,
    lexicon=(),
    partial=False,
    phones_from="",
    synthetic=False,
    notes=None,
):
    if phones_from == "manifest":
        list(rows)
        m = out / "manifest.tsv" if synthetic else source
        return p.prepare_table(
            m,
            out,
            name=name,
            licence=licence,
            synthetic=synthetic,
            lexicon=lexicon,
            partial=partial,
        )
    return p.prepare_rows(
        rows,
        out,
        source=source,
        name=name,
        licence=licence,
        lexicon=lexicon,
        partial=partial,
        phones_from=phones_from,
        synthetic=synthetic,
        notes=notes,
    )
