"""The handbook's pages and every command that they print."""

import re
import shlex
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]


PAGES = [REPOSITORY / "README.md", *sorted(REPOSITORY.glob("bundles/*/docs/README.md"))]


def commands(page: Path, **replaced: str) -> list[list[str]]:
    """Commands of a page's ``bash`` blocks, its variables filled in, comments left out.

    ``replaced`` are variables that get another value than the page gives them.
    """
    found, variables = [], {}
    for block in re.findall(r"```bash\n(.*?)```", page.read_text(), re.S):
        for line in block.replace("\\\n", " ").splitlines():
            for name, value in variables.items():
                line = re.sub(rf"\${name}\b", value, line)
            words = shlex.split(line, comments=True)
            if len(words) == 1 and (given := re.fullmatch(r"([A-Z]+)=(.+)", words[0])):
                variables[given[1]] = replaced.get(given[1], given[2])
            elif words:
                found.append(words)
    return found


ALL = [(page, words) for page in PAGES for words in commands(page)]


RUN = ["-m", "monai.bundle", "run"]


# A bundle of MONAI's model zoo is not here: test_readme_foreign.py runs one in its style.
FOREIGN = "spleen_ct_segmentation"


EVERY_RUN = [words for _, words in ALL if words[:4] == ["python", *RUN]]


RUNS = [words for words in EVERY_RUN if FOREIGN not in " ".join(words)]


OURS = [words for _, words in ALL if words[:3] == ["python", "-m", "perforated_monai"]]


TRAININGS = [
    w for w in RUNS if "--output_dir" in w and w[-1].startswith(("runs/full", "runs/comp"))
]
