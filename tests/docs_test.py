#!/usr/bin/env python3
"""Every block of C++ in docs/add_*.md stands word for word in a file of docs/examples, which the tests
build: the pages cannot fall behind the code. Usage: docs_test.py SOURCE_FOLDER"""
import re
import sys
from pathlib import Path


def main():
    root = Path(sys.argv[1])
    sources = [file.read_text() for file in sorted((root / "docs" / "examples").iterdir())]
    blocks, missing = 0, []
    for page in sorted((root / "docs").glob("add_*.md")):
        for block in re.findall(r"^```cpp\n(.*?)^```$", page.read_text(), re.M | re.S):
            blocks += 1
            if not any(block.strip() in source for source in sources):
                missing.append(f"{page.name}: no example holds\n{block}")
    if not blocks:
        missing.append("docs/add_*.md quote no code at all")
    print("\n".join(missing) or f"{blocks} blocks quoted as built")
    return 1 if missing else 0


if __name__ == "__main__":
    sys.exit(main())
