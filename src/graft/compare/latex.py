"""The ranked tables as LaTeX, with the rules of the package booktabs."""

from __future__ import annotations

from graft.compare.comparison import Comparison
from graft.compare.ranking import rank_budget
from graft.compare.reading import ORACLE

#: Columns that a paper has no room for.
_LEFT_OUT = ("trials", "training", "chosen values")

_ESCAPES = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "–": "--",
    "·": r"\textperiodcentered{}",
    "×": r"$\times$",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
}


def render_latex(comparison: Comparison) -> str:
    """Return one table for each condition and label budget; in bold the arm that validation chose."""
    lines = [
        f"% {comparison.experiment.splitlines()[0]}: \\usepackage{{booktabs}} is needed.",
        "% In bold the arm that validation chose. Intervals are at 95 % or as Holm's correction asks.",
    ]
    stamp = f". {ORACLE}" if comparison.selection == "oracle" else ""
    for section in comparison.sections:
        for budget in section.budgets:
            table = rank_budget(section, budget, comparison.metric)
            kept = [place for place, title in enumerate(table.columns) if title not in _LEFT_OUT]
            lines += [
                r"\begin{table}",
                rf"  \caption{{{escape(f'{section.data}, {table.title}{stamp}')}}}",
                rf"  \begin{{tabular}}{{l{'r' * (len(kept) - 1)}}}",
                r"    \toprule",
                "    " + " & ".join(escape(table.columns[place]) for place in kept) + r" \\",
                r"    \midrule",
            ]
            for row, bold in zip(table.rows, table.bold, strict=True):
                cells = [escape(row[place]) for place in kept]
                cells[0] = rf"\textbf{{{cells[0]}}}" if bold else cells[0]
                lines.append("    " + " & ".join(cells) + r" \\")
            lines += [r"    \bottomrule", r"  \end{tabular}", r"\end{table}"]
    return "\n".join(lines) + "\n"


def escape(text: str) -> str:
    r"""Return text as LaTeX prints it.

    >>> escape("50% of a_b")
    '50\\% of a\\_b'
    """
    return "".join(_ESCAPES.get(letter, letter) for letter in text)
