"""One HTML page of what a run of ``segment`` gave: to look at masks before they are trusted."""

from .write import check_page_path, write_page

__all__ = ["check_page_path", "write_page"]
