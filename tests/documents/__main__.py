"""`make docs`: write the generated parts of the documents."""

import sys
from pathlib import Path

from marked_text import filled
from pages import PAGES


def main(docs: Path) -> None:
    for name, blocks in PAGES.items():
        page = docs / name
        page.write_text(filled(page.read_text(encoding="utf-8"), blocks()), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
