"""What comments, docstrings and documents refer to is there; and the search for what is not would find it."""

import pytest

from references import Tree, anchors

GUIDE = """# Guide

See [the table](#rows-of-it), [its file](guide.md#guide) and `core/pool.py`.

## Rows of it

| row | what |
|---|---|
| 1 | one |

## Rows of it

```sh
# no heading
```
"""

SOURCE = '''"""Reads `read_all`, as core.pool and core.pool.Pool say (docs/guide.md#rows-of-it, row 1; RFC 8489 section 5)."""

LIMIT = 1
"""As the RFC 8489 has it
(section 5)."""


class Pool:
    def read_all(self):
        # Not before docs/guide.md
        # row 9 says so: that is another line.
        return "report.warning", f"words {LIMIT}"
'''


@pytest.fixture
def tree(tmp_path):
    package = tmp_path / "src/affinity_tester/core"
    package.mkdir(parents=True)
    (package / "pool.py").write_text(SOURCE)
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs/guide.md").write_text(GUIDE)
    return tmp_path


@pytest.fixture(scope="module")
def checkout(repo):
    return Tree(repo)


def test_every_reference_resolves(checkout):
    broken = checkout.broken()
    assert not broken, "\n" + "\n".join(broken)


def test_the_search_covers_code_documents_and_settings(checkout):
    paths = {prose.path for prose in checkout.prose}
    assert {"src/affinity_tester/errors.py", "tests/references.py", "benchmarks/__init__.py"} <= paths
    assert {"README.md", "docs/judging.md", "docs/record.md", "Makefile", "k8s/service.yaml", ".ci/run"} <= paths


def test_what_is_there_is_not_complained_of(tree):
    (tree / "docs/guide.md").write_text(GUIDE.replace("| 1 | one |", "| 1 | one |\n| 9 | nine |"))
    assert Tree(tree).broken() == []


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("As the table has it (design, section 4.2).", "'design, section': that document is not in the repository"),
        ("Rows of design 4.2.", "'design 4': that document is not in the repository"),
        ("See failure-modes.md.", "failure-modes.md does not exist"),
        ("See docs/none.md#there.", "docs/none.md does not exist"),
        ("See docs/guide.md#rows.", "docs/guide.md has no heading #rows"),
        ("See docs/guide.md#no-heading.", "docs/guide.md has no heading #no-heading"),
        ("See docs/guide.md#rows-of-it, row 2.", "docs/guide.md#rows-of-it has no row 2"),
        ("See docs/guide.md#guide, row 1.", "docs/guide.md#guide has no row 1"),
        ("Wrapped: docs/guide.md#rows-of-it,\nrow 2.", "docs/guide.md#rows-of-it has no row 2"),
        ("As section 5 says.", "section 5 of what?"),
        (
            "RFC 8489, section 19.9.",
            "RFC 8489 section 19.9: nobody has looked it up (RFC_SECTIONS in tests/references.py)",
        ),
        ("RFC 768 section 1.", "RFC 768 section 1: nobody has looked it up (RFC_SECTIONS in tests/references.py)"),
        ("See core/judge.py.", "core/judge.py does not exist"),
        ("See core/stun/.", "core/stun does not exist"),
        ("Rules of their own (core.outage_judge).", "core.outage_judge does not exist"),
        ("As core.pool.Snapshot has it.", "core.pool.Snapshot does not exist"),
        ("As affinity_tester.core.judge has it.", "affinity_tester.core.judge does not exist"),
        ("`Pool.write_all` writes.", "`Pool.write_all`: no code has the name write_all"),
        ("A `Mirror` of it.", "`Mirror`: no code has the name Mirror"),
        ("A `PoolMirror` of it.", "`PoolMirror`: no code has the name PoolMirror"),
    ],
)
def test_what_is_missing_is_found_in_docstrings_comments_and_documents(tree, text, said):
    source = tree / "src/affinity_tester/core/new.py"
    comment = "".join(f"# {line}\n" for line in text.splitlines())
    for where, content in (("docstring", f'"""{text}"""\n'), ("comment", f"X = 1\n{comment}")):
        source.write_text(content)
        assert said in [each.partition(": ")[2] for each in Tree(tree).broken()], where
    source.unlink()
    (tree / "README.md").write_text(f"# Read me\n\n{text}\n")
    assert f"README.md:3: {said}" in Tree(tree).broken()


@pytest.mark.parametrize(
    ("link", "said"),
    [
        ("[x](none.md)", "the link to none.md leads nowhere"),
        ("[x](docs/guide.md#nothing)", "the link to docs/guide.md#nothing leads to no heading"),
        ("[x](#nothing)", "the link to #nothing leads to no heading"),
    ],
)
def test_links_that_lead_nowhere_are_found(tree, link, said):
    (tree / "README.md").write_text(
        f"# Read me\n\n{link} [y](docs/guide.md#rows-of-it-1) [z](https://example.org/none)\n"
    )
    assert f"README.md:3: {said}" in Tree(tree).broken()


def test_headings_become_anchors_as_on_github(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(
        "# The verdict, and the exit code\n## `flow-wipe` [x](y)\n## A\n## A\n## RunStarted\n```\n# not\n```\n"
    )
    assert anchors(page) == {"the-verdict-and-the-exit-code", "flow-wipe-x", "a", "a-1", "runstarted"}


def test_the_readme_names_every_document(repo):
    readme = (repo / "README.md").read_text(encoding="utf-8")
    assert [page.name for page in sorted((repo / "docs").glob("*.md")) if f"(docs/{page.name})" not in readme] == []
