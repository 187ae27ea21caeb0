"""Finds what comments, docstrings and documents refer to, and says what of it is not there.

What is checked:

- documents: in "docs/judging.md#outages, row 4" the file, the heading and the row exist; relative links lead somewhere
- sections: each is of an RFC that is named before it, and somebody has looked it up there
- paths and modules: `core/pool.py`, `core.pool` and `core.pool.Endpoint` name something in this repository
- names in backticks that look like a program's (with an underscore, a capital or a dot) occur in the code
"""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from affinity_tester.report.run_metrics import RUN_METRICS
from affinity_tester.report.server_metrics import SERVER_METRICS

SOURCES = ("src", "tests", "benchmarks")
DOCUMENTS = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "docs/*.md", "tests/data/**/*.md")
SETTINGS = ("Makefile", "Dockerfile", "pyproject.toml", "env.list", "k8s/*.yaml", ".ci/*")
LAYERS = "core|net|cluster|lab|report|cli|app"

STUN = 8489
RFC_SECTIONS = {
    2923: "2.1",
    3393: "4",
    4291: "2.5.5.2",
    4737: "3.3",
    5389: "12.1",
    5508: "4.2",
    8085: "3.5",
    8200: "5",
    8445: "11",
    STUN: "4 5 6 6.1 6.2 6.2.1 6.2.2 6.2.3 6.3 6.3.1 6.3.2 6.3.3 6.3.4 7 8 8.1 9 9.1 9.2 10 11 12 13 14 14.1 14.2 14.3 14.4 "
    "14.5 14.6 14.7 14.8 14.9 14.10 14.11 14.12 14.13 14.14 14.15 14.16 18 18.1 18.2 18.3 18.4 18.5 18.6",
    9110: "15.4 15.5.6",
}
"""The sections that there are in RFC 8489, and those of other RFCs that somebody has looked up."""

OTHERS_NAMES = {
    "astuple",
    "__nf_conntrack_alloc",
    "__nf_conntrack_confirm",
    "early_drop",
    "get_unique_tuple",
    "rmem_max",
    "proxy_requests",
    "proxy_responses",
    "MADV_HUGEPAGE",
    "MADV_COLLAPSE",
}
"""Names of other programs that are told of here and occur in no code."""

METRICS = {
    f"affinity_tester_{each.name}{'_total' if each.kind == 'counter' else ''}"
    for each in (*RUN_METRICS, *SERVER_METRICS)
}
"""Metrics as they are scraped, whose names the code has without prefix."""

_OWN = {"references.py", "test_references.py"}
"""What this module and its test name, the missing and the foreign, is no name of the code's."""

OF_RUNS = "docs/diagnosis.md"
"""What runs printed, so its names are those of pods and Services."""

_DOCUMENT = re.compile(r"(?<![\w/.:-])((?:[\w.-]+/)*[\w-]+\.md)(?:#([\w-]+))?(?:,? rows? (\d+))?")
_ABSENT = re.compile(r"\bdesign(?:,? section\b|,? \d)|\((?:or )?(?:the )?design\)", re.IGNORECASE)
_SECTION = re.compile(
    r"(?:\bRFC (\d+)(?:,|'s)? )?\bsections? (\d+(?:\.\d+)*)(?:(?:,| and) (\d+(?:\.\d+)*))?|\bRFC (\d+)"
)
_PATH = re.compile(rf"(?<![\w./:<>~-])((?:src|tests|docs|benchmarks|k8s|{LAYERS})/[\w./*-]+)")
_DOTTED = re.compile(rf"(?<![\w./-])(?:affinity_tester|{LAYERS})(?:\.[A-Za-z_]\w*)+(?![\w/(-]|\.\w)")
_KERNEL = re.compile(r"net[./](?:core|ipv4|ipv6|netfilter)[./]")
_LINK = re.compile(r"\]\(([^)\s]+)\)")
_WHOLE_LINK = re.compile(r"\[[^]]*\]\([^)\s]+\)")
_CODE = re.compile(r"`([^`\n]+)`")
_NAME = re.compile(r"[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*(?:\(\))?")
_HEADING = re.compile(r"^#{1,6} (.+)$", re.MULTILINE)
_FENCE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True, order=True)
class Prose:
    """A piece of text for people."""

    path: str
    """Of its file, from the root."""
    line: int
    """Where it begins."""
    text: str


@dataclass
class Tree:
    """A checkout."""

    root: Path
    names: set[str] = field(default_factory=set)
    """Every word of the code: names, and what stands in strings."""
    dotted: set[str] = field(default_factory=set)
    """What looks like a module's attribute and is a text of the code's: events' names such as `report.warning`."""

    # --- what is there ------------------------------------------------------------------------------------------------

    def broken(self) -> list[str]:
        """Return every reference that leads nowhere, as `file:line: what`."""
        return [f"{prose.path}:{prose.line}: {what}" for prose in self.prose for what in self._broken_in(prose)]

    @cached_property
    def prose(self) -> list[Prose]:
        """All comments, docstrings and documents."""
        found: list[Prose] = []
        for folder in SOURCES:
            for path in sorted((self.root / folder).rglob("*.py")):
                found += self._read_python(path)
        for path in self._files(*DOCUMENTS, *SETTINGS):
            found += self._read_text(path)
        return found

    def _files(self, *patterns: str) -> list[Path]:
        return sorted({path for pattern in patterns for path in self.root.glob(pattern) if path.is_file()})

    def _read_python(self, path: Path) -> Iterator[Prose]:
        """Yield docstrings, texts below fields and blocks of comments, and note the words of the rest."""
        source = path.read_text(encoding="utf-8")
        name = str(path.relative_to(self.root))
        docs = {
            node.lineno: node.value.value
            for node in ast.walk(ast.parse(source))
            if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
        }
        for line, text in docs.items():
            yield Prose(name, line, text)
        comment: list[str] = []
        begin = last = 0
        for token in tokenize.generate_tokens(io.StringIO(source).readline):
            line = token.start[0]
            if token.type == tokenize.COMMENT:
                if comment and line != last + 1:
                    yield Prose(name, begin, "\n".join(comment))
                    comment = []
                begin = line if not comment else begin
                last = line
                comment.append(token.string.lstrip("#: "))
            elif line not in docs and path.name not in _OWN:  # names and texts, also the parts of a formatted one
                self.names.update(re.findall(r"\w+", token.string))
                self.dotted.update(re.findall(r"(?<=[\"'])\w+(?:\.\w+)+(?=[\"'])", token.string))
        if comment:
            yield Prose(name, begin, "\n".join(comment))

    def _read_text(self, path: Path) -> Iterator[Prose]:
        """Yield the paragraphs and table rows of a document, or of a file of settings, whose words are names, too."""
        text = path.read_text(encoding="utf-8")
        name = str(path.relative_to(self.root))
        if path.suffix != ".md":
            self.names.update(re.findall(r"\w+", text))
        line = 1
        for paragraph in re.split(r"(\n{2,}|\n(?=\|))", text):
            if paragraph.strip():
                yield Prose(name, line, paragraph)
            line += paragraph.count("\n")

    # --- what is referred to ----------------------------------------------------------------------------------------------

    def _broken_in(self, prose: Prose) -> Iterator[str]:
        flat = " ".join(prose.text.split())
        is_document = prose.path.endswith(".md")
        yield from self._documents(prose, flat)
        yield from self._sections(prose, flat)
        yield from self._modules(prose, flat)
        if is_document:
            yield from self._links(prose, flat)
        if is_document or prose.path.endswith(".py"):
            yield from self._program_names(flat)

    def _documents(self, prose: Prose, text: str) -> Iterator[str]:
        for absent in _ABSENT.findall(text):
            yield f"{absent!r}: that document is not in the repository"
        for path, anchor, row in _DOCUMENT.findall(_WHOLE_LINK.sub("", text)):
            file = self._resolved(prose, path)
            if file is None:
                yield f"{path} does not exist"
            elif anchor and anchor not in anchors(file):
                yield f"{path} has no heading #{anchor}"
            elif row and f"\n| {row} |" not in section(file, anchor):
                yield f"{path}#{anchor} has no row {row}"

    def _resolved(self, prose: Prose, path: str) -> Path | None:
        """Return the file that a path means: from the root, or in a document from where that is."""
        places = [self.root, (self.root / prose.path).parent] if prose.path.endswith(".md") else [self.root]
        return next((place / path for place in places if (place / path).is_file()), None)

    def _sections(self, prose: Prose, text: str) -> Iterator[str]:
        is_stun = "/stun/" in prose.path
        rfc = STUN if is_stun else None
        for direct, *numbers, named in _SECTION.findall(text):
            if not is_stun:
                rfc = int(direct or named or rfc or 0)
            for number in filter(None, numbers):
                of = int(direct or rfc or 0)
                if not of:
                    yield f"section {number} of what?"
                elif number not in RFC_SECTIONS.get(of, "").split():
                    yield f"RFC {of} section {number}: nobody has looked it up (RFC_SECTIONS in tests/references.py)"

    def _modules(self, prose: Prose, text: str) -> Iterator[str]:
        package = self.root / "src/affinity_tester"
        if prose.path == OF_RUNS:
            return
        for match in _PATH.findall(text):
            path = match.rstrip("./")
            if _KERNEL.match(path):
                continue
            places = (self.root, package, (self.root / prose.path).parent)
            if not any(any(place.glob(end)) for place in places for end in (path, f"{path}.py")):
                yield f"{path} does not exist"
        for match in _DOTTED.finditer(text):
            dotted = match[0]
            is_known = _KERNEL.match(dotted) or dotted in self.dotted or self._has_module(dotted)
            if not is_known:
                yield f"{dotted} does not exist"

    def _has_module(self, dotted: str) -> bool:
        """Whether this names a module or package, or something at the top of one."""
        place = self.root / "src/affinity_tester"
        parts = dotted.removeprefix("affinity_tester.").split(".")
        while parts and (place / parts[0]).is_dir():
            place /= parts.pop(0)
        if parts and (place / f"{parts[0]}.py").is_file():
            place /= f"{parts.pop(0)}.py"
        if not parts:
            return True
        file = place / "__init__.py" if place.is_dir() else place
        return place != self.root / "src/affinity_tester" and parts[0] in _top_level(file)

    def _links(self, prose: Prose, text: str) -> Iterator[str]:
        here = self.root / prose.path
        for target in _LINK.findall(text):
            if re.match(r"\w+:", target):
                continue
            path, _, anchor = target.partition("#")
            file = here.parent / path if path else here
            if not file.exists():
                yield f"the link to {target} leads nowhere"
            elif anchor and anchor not in anchors(file):
                yield f"the link to {target} leads to no heading"

    def _program_names(self, text: str) -> Iterator[str]:
        for code in _CODE.findall(text):
            is_name = _NAME.fullmatch(code) and not _DOCUMENT.fullmatch(code)
            if is_name and re.search(r"\w_\w|[a-z][A-Z]|\w\.\w|^[A-Z][a-z]", code):
                unknown = [word for word in re.findall(r"\w+", code) if word not in self.names | OTHERS_NAMES | METRICS]
                if unknown:
                    yield f"`{code}`: no code has the name {', '.join(unknown)}"


def anchors(file: Path) -> set[str]:
    """Return the headings of a document as links write them (GitHub's way; a heading that is there again gets a number)."""
    found: list[str] = []
    for heading in _HEADING.findall(_FENCE.sub("", file.read_text(encoding="utf-8"))):
        slug = _slug(heading)
        again = sum(each == slug or re.fullmatch(rf"{re.escape(slug)}-\d+", each) is not None for each in found)
        found.append(f"{slug}-{again}" if slug in found else slug)
    return set(found)


def section(file: Path, anchor: str) -> str:
    """Return the text below the heading of this anchor, up to the next heading; all of the document without one."""
    text = file.read_text(encoding="utf-8")
    if not anchor:
        return text
    _, *parts = re.split(r"^#{1,6} ", text, flags=re.MULTILINE)
    return next((part for part in parts if _slug(part.partition("\n")[0]) == anchor), "")


def _slug(heading: str) -> str:
    plain = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading).strip().lower()
    return re.sub(r"[^\w\- ]", "", plain).replace(" ", "-")


def _top_level(file: Path) -> set[str]:
    """Return the names that a module binds."""
    found: set[str] = set()
    for node in ast.parse(file.read_text(encoding="utf-8")).body if file.is_file() else ():
        match node:
            case ast.ClassDef(name=name) | ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
                found.add(name)
            case ast.Assign() | ast.AnnAssign():
                found |= {each.id for each in ast.walk(node) if isinstance(each, ast.Name)}
            case ast.Import(names=names) | ast.ImportFrom(names=names):
                found |= {(each.asname or each.name).partition(".")[0] for each in names}
            case _:
                pass
    return found
