"""What a packed bundle holds: its folders, the endings in them, and the files of this package."""

from __future__ import annotations

from pathlib import Path

PACKAGE = "perforated_monai"
# Folders of a bundle and the endings that are taken from them. What training, inference and caches
# leave behind lies elsewhere or ends otherwise; so do scans.
FOLDERS = {
    "configs": (".json", ".yaml", ".yml", ".conf"),
    "docs": (".md", ".txt", ".png", ".jpg", ".jpeg", ".csv", ".json", ".yaml"),
    "models": (".pt", ".json"),
    "scripts": (".py",),
    "studies": (".yaml", ".yml"),
}
TOP = ("LICENSE", "LICENSE.txt", "LICENSE.md", "NOTICE", "README.md")
# What export makes from model.pt; packed when asked for.
FORMATS = {
    "ts": ("model.ts",),
    "pt2": ("model.pt2",),
    "onnx": ("model.onnx", "model.onnx.data"),
}


def package_files() -> dict[str, Path]:
    """Path in a packed bundle -> file of this package, as it is installed."""
    root = Path(__file__).resolve().parents[1]
    return {
        f"{PACKAGE}/{path.relative_to(root).as_posix()}": path
        for path in sorted(root.rglob("*"))
        if path.is_file() and not is_byproduct(path.relative_to(root))
    }


def is_byproduct(path: Path) -> bool:
    """Dot files, and what Python writes beside its sources."""
    dotted = any(part.startswith(".") or part == "__pycache__" for part in path.parts)
    return dotted or path.suffix in (".pyc", ".pyo")
