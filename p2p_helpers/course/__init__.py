"""The course: what its notebooks need beside the package."""

from .cells import load_ipython_extension

__all__ = ["load_ipython_extension"]
