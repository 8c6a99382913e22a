"""Does what a page of the documentation says up to its run: writes the files it shows, runs its scripts.

run_page.py PAGE FOLDER SCRIPT...
    A block of code belongs to the file that the paragraph above it names last (`export.py`). Prints
    "skip: WHY" and fails where Python lacks a package that the page says to install.
"""
import re
import subprocess
import sys
from pathlib import Path


def main():
    page, folder, scripts = Path(sys.argv[1]).read_text(), Path(sys.argv[2]), sys.argv[3:]
    written = []
    for before, code in re.findall(r"([^\n]+)\n\n```(?:python|toml)\n(.*?)^```$", page, re.M | re.S):
        named = re.findall(r"`(\w+\.(?:py|toml))`", before)
        if named:
            (folder / named[-1]).write_text(code)
            written.append(named[-1])
    for script in scripts:
        if script not in written:
            sys.exit(f"the page shows {written}, not {script}")
        done = subprocess.run([sys.executable, script], cwd=folder, capture_output=True, text=True)
        missing = re.search(r"No module named '(\w+)'", done.stderr)
        if missing:
            sys.exit(f"skip: no {missing.group(1)}")
        if done.returncode:
            sys.exit(f"{script}: {done.stdout}{done.stderr}")


main()
