"""Write the scores of a QbE record as the XML file that QUESST 2014's own scorer reads.

    python benchmarks/quesst_scorer.py results/query-hubert-0123456789abcdef.json scored
    cd quesst14Database/scoring
    ./score-TWV-Cnxe.sh /absolute/path/of/scored groundtruth_quesst14_eval -10

The file is that of s3prl's quesst14_dtw, for which SUPERB publishes the scorer's maxTWV. Pairs that
are missing from the file get -10.
"""

import argparse
import json
from pathlib import Path
from xml.etree import ElementTree as ET

from mt4ssl_bench.results.record_files import load, load_hypotheses

YES = 2.0  # standard deviations above the mean of a query; maxTWV does not depend on it


def stdlist(record: Path) -> ET.Element:
    """Return the scores of a record's answers."""
    root = ET.Element(
        "stdlist",
        termlist_filename="benchmark.stdlist.xml",
        indexing_time="1.00",
        language="english",
        index_size="1",
        system_id=load(record).upstream["name"],
    )
    for answer in load_hypotheses(record):
        query = ET.SubElement(
            root,
            "detected_termlist",
            termid=answer["id"],
            term_search_time="1.0",
            oov_term_count="1",
        )
        for document, score in json.loads(answer["hypothesis"]).items():
            ET.SubElement(
                query,
                "term",
                file=document,
                channel="1",
                tbeg="0.000",
                dur="0.00",
                score=f"{score:.4f}",
                decision="YES" if score > YES else "NO",
            )
    return root


def main() -> None:
    """Write benchmark.stdlist.xml."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("record", type=Path, help="of task query, on the corpus quesst2014")
    parser.add_argument("folder", type=Path, help="to write benchmark.stdlist.xml to")
    options = parser.parse_args()
    tree = ET.ElementTree(stdlist(options.record))
    ET.indent(tree)
    options.folder.mkdir(parents=True, exist_ok=True)
    tree.write(options.folder / "benchmark.stdlist.xml", encoding="UTF-8", xml_declaration=True)


if __name__ == "__main__":
    main()
