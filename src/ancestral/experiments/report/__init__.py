"""A report: one page that holds what is known of a run, or of several beside one another.

``subjects`` opens what it is of, ``bounds``, ``samples`` and ``data`` make the sections, ``charts`` and
``images`` their figures, ``page`` the HTML. It is one file that loads nothing.
"""

from ancestral.experiments.report.writing import report

__all__ = ["report"]
