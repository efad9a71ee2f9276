"""The handbook's pages, every command that they print, and every link and path."""

import re
import shlex
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
PACKAGE = REPOSITORY / "scripts" / "perforated_monai"

README = REPOSITORY / "README.md"
HANDBOOK = [
    README,
    *(REPOSITORY / f / "README.md" for f in ("bundles", "scripts", "tests", "data_manifests")),
]
BUNDLE_PAGES = sorted(REPOSITORY.glob("bundles/*/docs/README.md"))
JOINING = REPOSITORY / ".github" / "CONTRIBUTING.md"
PAGES = [*HANDBOOK, JOINING, *BUNDLE_PAGES]

# A bundle of MONAI's model zoo is not here: test_readme_foreign.py runs one in its style.
FOREIGN = "spleen_ct_segmentation"
RUN = ["-m", "monai.bundle", "run"]


def commands(page: Path, **replaced: str) -> list[list[str]]:
    """Commands of a page's ``bash`` blocks, its variables filled in, comments left out.

    ``replaced`` are variables that get another value than the page gives them.
    """
    return [words for block in blocks(page, **replaced) for words in block]


def blocks(page: Path, **replaced: str) -> list[list[list[str]]]:
    """The same, block by block."""
    printed, variables = [], {}
    for block in re.findall(r"```bash\n(.*?)```", page.read_text(), re.S):
        printed.append([])
        for line in block.replace("\\\n", " ").splitlines():
            for name, value in variables.items():
                line = re.sub(rf"\${name}\b", value, line)
            words = shlex.split(line, comments=True)
            if len(words) == 1 and (given := re.fullmatch(r"([A-Z]+)=(.+)", words[0])):
                variables[given[1]] = replaced.get(given[1], given[2])
            elif words:
                printed[-1].append(words)
    return printed


def is_ours(words: list[str]) -> bool:
    return words[:3] == ["python", "-m", "perforated_monai"]


def config_files(words: list[str]) -> list[str]:
    return re.findall(r"[\w./-]+\.(?:json|yaml)", words[words.index("--config_file") + 1])


ALL = [(page, words) for page in PAGES for words in commands(page)]
OURS = [words for _, words in ALL if is_ours(words)]
# `python -m monai.bundle run`, also below `torchrun`.
EVERY_RUN = [words for _, words in ALL if [w for w in words if w in RUN] == RUN]
RUNS = [words for words in EVERY_RUN if FOREIGN not in " ".join(words)]
OTHERS = [words for _, words in ALL if words not in OURS and words not in EVERY_RUN]
# In one process, on the pages that are no bundle's own; those are run from top to bottom.
TRAININGS = [
    words
    for page in HANDBOOK
    for words in commands(page)
    if words in RUNS
    and words[0] == "python"
    and any("train.json" in file for file in config_files(words))
    and not any("evaluate" in file for file in config_files(words))
]


def links(page: Path) -> list[str]:
    """Targets of a page's links and pictures that lie in the repository."""
    targets = re.findall(r"\]\(([^)\s]+)\)", page.read_text())
    return [t for t in targets if not re.match(r"[a-z]+:", t)]


def anchors(page: Path) -> set[str]:
    """The names by which the headings of a page can be linked, as GitHub makes them."""
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.S)
    titles = re.findall(r"^#+ (.+)$", text, re.M)
    return {re.sub(r"[^\w\- ]", "", t.lower()).replace(" ", "-") for t in titles}


def table(page: Path, title: str) -> list[list[str]]:
    """The cells of the first table below a heading, without its head."""
    below = re.split(rf"^#+ {title}$", page.read_text(), maxsplit=1, flags=re.M)[1]
    lines = re.search(r"(?:^\|.*\n)+", below, re.M)[0].splitlines()
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]
