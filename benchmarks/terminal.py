"""Print the lines of a table to the terminal."""

import os

from rich.console import Console
from rich.table import Table
from tables import Lines


def print_lines(lines: Lines, title: str) -> None:
    """Print lines under a title: names to the left, figures to the right."""
    table = Table(title=title)
    for number, head in enumerate(lines[0]):
        table.add_column(head, justify="right" if number else "left")
    for line in lines:
        table.add_row(*(cell.replace("**", "") for cell in line.values()))
    Console(width=None if os.isatty(1) else 160).print(table)
