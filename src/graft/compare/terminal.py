"""The ranked tables for a terminal."""

from __future__ import annotations

from rich import box
from rich.table import Table
from rich.text import Text

from graft.compare.comparison import Comparison
from graft.compare.naming import name_budget, write_seconds, write_value
from graft.compare.ranking import NOTHING, name_section, write_difference
from graft.config.names import METRICS

_VERDICT_STYLES = {
    "helps": "bold green",
    "hurts": "bold red",
    "equivalent": "cyan",
    "not established": "yellow",
}


def render_table(comparison: Comparison) -> list[Table]:
    """Return the tables for a terminal, one per condition and label budget."""
    metric = comparison.metric
    in_points = METRICS[metric].unit == "fraction"
    tables = []
    for section in comparison.sections:
        for budget in section.budgets:
            title = name_budget(budget.labels)
            title = f"{name_section(section)}, {title}" if len(comparison.sections) > 1 else title
            table = Table(
                title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False
            )
            table.add_column("arm", min_width=14)
            table.add_column(f"test {metric.replace('_', ' ')}", justify="right", no_wrap=True)
            table.add_column("points to twin" if in_points else "to twin", justify="right", no_wrap=True)
            table.add_column("verdict", min_width=11)
            table.add_column("train", justify="right", no_wrap=True)
            for row in budget.rows:
                gain, verdict = write_difference(row, metric), row.verdict or NOTHING
                table.add_row(
                    Text(row.name, style="bold" if row.headline else ""),
                    Text(write_value(row.test)),
                    Text(gain.replace(" points", "") if in_points else gain),
                    Text(verdict, style=_VERDICT_STYLES.get(verdict, "")),
                    write_seconds(row.train_seconds),
                )
            tables.append(table)
    return tables
