"""The table of the zoo: each bundle of a checkout from overlay to segment, on tiny synthetic data.

    git clone https://github.com/Project-MONAI/model-zoo
    pip install -c constraints.txt scikit-image     # which three bundles ask for
    python tests/benchmarks/zoo.py model-zoo --work zoo_runs [--only spleen_ct_segmentation]

Every bundle is copied first; the copy must be byte-identical afterwards. Commands are those that
the overlay prints, with a file that shrinks windows, cases and epochs behind it. Results are kept
in ``zoo.json``: the same command continues; ``--again`` tries the named bundles anew. Weights of
the zoo are not needed: growth starts from scratch, so the table says nothing about accuracy.
"""

from __future__ import annotations

import argparse
import datetime
import hashlib
import importlib.metadata
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import yaml
from monai.bundle import ConfigParser
from zoo_command import run_command
from zoo_data import RECIPES, Recipe, shrunk

STEPS = ("overlay", "growth", "export", "inference", "segment", "unchanged")
EPOCHS = 2
KILLED = (
    "segmentation_template",
    "ventricular_short_axis_3label",
    "endoscopic_tool_segmentation",
)


def main() -> None:
    """Try what is not known yet, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("zoo", help="checkout of Project-MONAI/model-zoo")
    parser.add_argument("--work", default="zoo_runs", help="folder for copies, data, runs, results")
    parser.add_argument("--only", default="", help="names, with commas")
    parser.add_argument("--again", action="store_true", help="forget the results of these")
    parser.add_argument("--overlays", action="store_true", help="overlays alone")
    parser.add_argument("--kill", action="store_true", help="kill -9 after growth, and continue")
    parser.add_argument("--seconds", type=int, default=1500, help="limit of one command")
    given = parser.parse_args()
    models, work = Path(given.zoo).resolve() / "models", Path(given.work).resolve()
    work.mkdir(parents=True, exist_ok=True)
    names = sorted(p.name for p in models.iterdir() if p.is_dir())
    chosen = [n for n in given.only.split(",") if n] or (list(KILLED) if given.kill else names)
    book = work / "zoo.json"
    results: dict[str, Any] = json.loads(book.read_text()) if book.is_file() else {}
    for name in chosen:
        if given.again:
            results.pop(name, None)
        row = results.setdefault(name, {})
        bundle = Bundle(models / name, work / name, given.seconds, row)
        if given.kill:
            bundle.kill()
        else:
            bundle.run(overlay_only=given.overlays)
        book.write_text(json.dumps(results, indent=1))
        print(f"{name}: {' '.join(f'{s}={_cell(row.get(s))}' for s in STEPS)}", flush=True)
    print(table(names, results))


class Bundle:
    """One bundle and its row of the table: step -> ``"yes"`` or the reason why not."""

    def __init__(self, source: Path, work: Path, seconds: int, row: dict[str, Any]) -> None:
        self.name, self.work, self.seconds, self.row = source.name, work, seconds, row
        self.recipe: Recipe | None = RECIPES.get(source.name)
        self.bundle, self.out = work / source.name, work / f"{source.name}_dendritic"
        if not self.bundle.is_dir():
            shutil.copytree(source, self.bundle)
        self.source = source

    def run(self, overlay_only: bool) -> None:
        """Steps in their order; one that failed ends the row, one that is known is skipped."""
        for step in STEPS[:1] if overlay_only else STEPS[:-1]:
            if self.row.get(step) == "yes":
                continue
            if step != "overlay" and self.recipe is None:
                break
            start = time.monotonic()
            try:
                reason = getattr(self, step)()
            except subprocess.TimeoutExpired:
                reason = f"not finished in {self.seconds} s"
            self.row[step] = reason or "yes"
            self.row[f"{step}_seconds"] = round(time.monotonic() - start, 1)
            if reason and not reason.startswith("-"):
                break
        same = _hashes(self.source) == _hashes(self.bundle)
        self.row["unchanged"] = "yes" if same else "files of the bundle changed"

    # -- steps: "" or the reason why not ----------------------------------------------------

    def overlay(self) -> str:
        self.work.mkdir(exist_ok=True)
        command = f"{_PYTHON} -m perforated_monai overlay {self.name}"
        rc, out = self._call(command, "overlay")
        if rc and "--trust" in out:
            self.row["trust"] = True
            rc, out = self._call(f"{command} --trust", "overlay")
        if rc:
            return _last(out)
        (self.work / "dendrites.yaml").write_text(out)
        return ""

    def growth(self) -> str:
        shutil.rmtree(self.work / "runs", ignore_errors=True)
        rc, out = self._call(self._training(), "growth")
        if rc:
            return _last(out)
        return "" if self._grew() else "no dendrites grew"

    def export(self) -> str:
        shutil.rmtree(self.out, ignore_errors=True)
        command = self._printed()[1] + " --formats none --patches 2"
        rc, out = self._call(f"{command} --size {self._recipe.side}", "export")
        return _last(out) if rc else ""

    def inference(self) -> str:
        file = next(f for f in self.out.glob("configs/inference.*"))
        config = ConfigParser.load_config_file(file)
        run = next(
            k for k, v in config.items() if isinstance(v, list) and "evaluator.run" in str(v)
        )
        small = shrunk(config, self._recipe, 1) | self._recipe.make(self._data())[1]
        small |= {"bundle_root": str(self.out), "output_dir": str(self.work / "masks")}
        (self.work / "small_inference.yaml").write_text(yaml.safe_dump(small))
        shutil.rmtree(self.work / "masks", ignore_errors=True)
        files = f"\"['{file}','small_inference.yaml']\""
        command = f"PYTHONPATH={self.out}:$PYTHONPATH {_PYTHON} -m monai.bundle run {run}"
        rc, out = self._call(f"{command} --config_file {files}", "inference")
        if rc:
            return _last(out)
        return "" if any((self.work / "masks").rglob("*.*")) else "nothing was written"

    def segment(self) -> str:
        if not self._recipe.segment:
            return "- for one 3-D image"
        volume = self._scan()
        masks = self.work / "segmented"
        shutil.rmtree(masks, ignore_errors=True)
        trust = " --trust" if self.row.get("trust") else ""
        command = f"{_PYTHON} -m perforated_monai segment {volume} {masks} {self.out}{trust}"
        rc, out = self._call(command, "segment")
        return _last(out) if rc else ""

    def kill(self) -> None:
        """Kill -9 right after growth, and the same command again: the run ends."""
        if not (self.work / "dendrites.yaml").is_file():
            self.overlay()
        shutil.rmtree(self.work / "runs", ignore_errors=True)
        process = subprocess.Popen(
            ["bash", "-c", self._training()],
            cwd=self.work, env=_environment(), start_new_session=True,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        until = time.monotonic() + self.seconds
        while process.poll() is None and not self._grew() and time.monotonic() < until:
            time.sleep(0.2)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        lines = len(self._events())
        rc, out = self._call(self._training(), "kill")
        done = any(e["event"] == "complete" for e in self._events())
        ok = rc == 0 and done and lines > 0
        self.row["kill -9"] = f"yes, after {lines} events" if ok else _last(out)

    # -- helpers ----------------------------------------------------------------------------

    @property
    def _recipe(self) -> Recipe:
        assert self.recipe is not None
        return self.recipe

    def _data(self) -> Path:
        (self.work / "data").mkdir(exist_ok=True)
        return self.work / "data"

    def _scan(self) -> Path:
        """One volume, or a list of one case where the network takes several channels."""
        data = self._data()
        channels = sorted(data.glob("i0_*.nii.gz"))
        if not channels:
            return next(iter(sorted(data.rglob("*.nii.gz"))))
        case = {"case": "c0", "image": [str(file) for file in channels]}
        (data / "cases.json").write_text(json.dumps([case]))
        return data / "cases.json"

    def _training(self) -> str:
        """The printed command, with a file that makes it small behind the overlay."""
        command = self._printed()[0]
        match = re.search(r"'([^']*/configs/train\.[a-z]+)'", command)
        assert match is not None
        config = ConfigParser.load_config_file(self.work / match[1])
        small = shrunk(config, self._recipe, EPOCHS) | dict(self._recipe.train)
        small |= self._recipe.make(self._data())[0]
        small |= {"dendrites::patience": 1, "dendrites::switch": "fixed"}
        (self.work / "small.yaml").write_text(yaml.safe_dump(small))
        return command.replace("'dendrites.yaml'", "'dendrites.yaml','small.yaml'")

    def _printed(self) -> list[str]:
        """Commands for training and export in the overlay's head, as they stand there."""
        text = (self.work / "dendrites.yaml").read_text()
        head = "\n".join(line[1:].strip() for line in text.splitlines() if line.startswith("#   "))
        head = head.replace("\\\n", " ").replace("python -m", f"{_PYTHON} -m")
        lines = [line for line in head.splitlines() if f"{_PYTHON} -m" in line]
        return [next(li for li in lines if f" {what} " in li) for what in ("run", "export")]

    def _events(self) -> list[dict[str, Any]]:
        files = list((self.work / "runs").rglob("history.jsonl"))
        text = files[0].read_text() if files else ""
        return [json.loads(line) for line in text.splitlines() if line.endswith("}")]

    def _grew(self) -> bool:
        return any(e["event"] == "grow" for e in self._events())

    def _call(self, command: str, step: str) -> tuple[int, str]:
        """Run in the work folder; the overlay's standard output, or all of a failed command's."""
        code, out, err = run_command(command, self.work, self.seconds)
        text = f"$ {command}\n{out}\n{err}"
        (self.work / f"{step}.log").write_text(text)
        return code, out if code == 0 else text


_PYTHON = shlex.quote(sys.executable)


def _environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}


_ERROR = re.compile(r"(Error: |perforated_monai: |[\w.]*(Error|Exception)\b.*: )")
_AROUND = ("RuntimeError: Failed to evaluate", "RuntimeError: applying transform")


def _last(text: str) -> str:
    """The line that says why: the last error that is no wrapper; a traceback is named as one."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    errors = [li for li in lines if _ERROR.match(li) and not li.startswith(_AROUND)]
    said = errors[-1] if errors else lines[-1] if lines else "nothing was said"
    ours = "Traceback" in text and "perforated_monai overlay" in text
    return f"{'TRACEBACK ' if ours else ''}{said}"[:300]


def _hashes(folder: Path) -> dict[str, str]:
    return {
        str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in folder.rglob("*")
        if p.is_file() and "__pycache__" not in p.parts
    }


def _cell(value: str | None) -> str:
    if value is None:
        return " "
    return "yes" if value == "yes" else value.removeprefix("- ") if value[:2] == "- " else "no"


def table(names: list[str], results: dict[str, Any]) -> str:
    """Markdown, with date, versions and counts on top."""
    packages = ("monai", "torch", "perforatedai")
    versions = ", ".join(f"{p} {importlib.metadata.version(p)}" for p in packages)
    lines = [f"{datetime.datetime.now(tz=datetime.UTC).date()}; {versions}.", ""]
    lines += [f"| bundle | {' | '.join(STEPS)} | why not |", "|---" * (len(STEPS) + 2) + "|"]
    for name in sorted(names, key=lambda n: (n not in RECIPES and n != "vista2d", n)):
        row = results.get(name, {})
        reasons = [row[s] for s in STEPS if row.get(s, "yes") != "yes" and row[s][:2] != "- "]
        reasons += ["with `--trust`"] if row.get("trust") and row.get("overlay") == "yes" else []
        note = "; ".join([*reasons, *([RECIPES[name].note] if name in RECIPES else [])])
        note = note.replace("perforated_monai: ", "").replace(
            "Error: ", "", note.startswith("Error: ")
        )
        cells = " | ".join(_cell(row.get(s)) for s in STEPS)
        lines.append(f"| {name} | {cells} | {note.strip('; ').replace('|', '/')} |")
    segmentation = [n for n in names if n in RECIPES or n == "vista2d"]
    made = sum(results.get(n, {}).get("overlay") == "yes" for n in segmentation)
    steps = [s for s in STEPS if s != "segment"]
    whole = sum(
        all(results.get(n, {}).get(s) == "yes" for s in steps)
        and (results[n].get("segment") == "yes" or str(results[n].get("segment"))[:2] == "- ")
        for n in segmentation
    )
    lines += [
        "",
        f"Of {len(segmentation)} segmentation bundles {made} get an overlay and {whole} go",
    ]
    lines[-1] += " end to end."
    killed = [n for n in names if str(results.get(n, {}).get("kill -9")).startswith("yes")]
    if killed:
        said = "Killed (`kill -9`) after growth and continued by the same command"
        lines += ["", f"{said}: {', '.join(killed)}."]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
