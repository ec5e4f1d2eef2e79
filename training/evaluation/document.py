"""A report as sections of text, tables and pictures; written as Markdown, and as HTML that needs no other file."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from html import escape

PLOTS = "plots"
"""Folder of the pictures beside the Markdown."""
_MARKS = ("yes", "no", "unsure", "too few")
_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 1400px; margin: 2rem auto; padding: 0 1rem; color: #1c2430; }
h1 { font-size: 1.6rem; } h2 { margin-top: 2.5rem; border-bottom: 1px solid #d5dae1; padding-bottom: .2rem; }
nav a { margin-right: 1rem; } a { color: #0b5fa5; }
.table { overflow-x: auto; margin: 1rem 0; }
table { border-collapse: collapse; font-size: .86rem; font-variant-numeric: tabular-nums; }
caption { text-align: left; font-weight: 600; padding-bottom: .3rem; }
th, td { padding: .22rem .6rem; text-align: left; border-bottom: 1px solid #e6e9ee; white-space: nowrap; }
td:first-child { white-space: normal; min-width: 19rem; }
thead th { background: #f2f4f7; position: sticky; top: 0; }
td.yes { background: #d9f0e0; } td.no { background: #f9dada; } td.unsure { background: #fdf0cf; } td.too-few { color: #7a828e; }
figure { margin: 1.2rem 0; } figure img { max-width: 100%; height: auto; } figcaption { color: #4a5361; font-size: .88rem; }
"""


@dataclass(frozen=True, slots=True)
class Table:
    """Text in rows and columns."""

    title: str
    columns: tuple[str, ...]
    rows: list[tuple[str, ...]]


@dataclass(frozen=True, slots=True)
class Picture:
    """A plot."""

    name: str
    """Of its file, without the ending."""
    caption: str
    png: bytes


@dataclass(frozen=True, slots=True)
class Section:
    """One heading and what is below it."""

    title: str
    text: tuple[str, ...] = ()
    tables: tuple[Table, ...] = ()
    pictures: tuple[Picture, ...] = ()


@dataclass(frozen=True, slots=True)
class Document:
    """A whole report."""

    title: str
    text: tuple[str, ...]
    sections: tuple[Section, ...]

    def pictures(self) -> list[Picture]:
        """All of its pictures."""
        return [picture for section in self.sections for picture in section.pictures]


def as_markdown(document: Document, *, with_pictures: bool = True) -> str:
    """Markdown; pictures are links into the folder PLOTS."""
    lines = [f"# {document.title}", *_paragraphs(document.text)]
    for section in document.sections:
        lines += ["", f"## {section.title}", *_paragraphs(section.text)]
        if with_pictures:
            for picture in section.pictures:
                lines += ["", f"![{picture.caption}]({PLOTS}/{picture.name}.png)"]
        for table in section.tables:
            lines += ["", f"**{table.title}**", "", _markdown_row(table.columns), "|" + "---|" * len(table.columns)]
            lines += [_markdown_row(row) for row in table.rows]
    return "\n".join(lines) + "\n"


def _paragraphs(text: tuple[str, ...]) -> list[str]:
    return [line for paragraph in text for line in ("", paragraph)]


def _markdown_row(cells: tuple[str, ...]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"


def as_html(document: Document) -> str:
    """One HTML page with its pictures inside."""
    numbered = list(enumerate(document.sections))
    links = " ".join(f'<a href="#s{number}">{escape(section.title)}</a>' for number, section in numbered)
    parts = [f"<h1>{escape(document.title)}</h1>", *(f"<p>{escape(line)}</p>" for line in document.text), f"<nav>{links}</nav>"]
    for number, section in numbered:
        parts.append(f'<h2 id="s{number}">{escape(section.title)}</h2>')
        parts += [f"<p>{escape(line)}</p>" for line in section.text]
        parts += [_html_picture(picture) for picture in section.pictures]
        parts += [_html_table(table) for table in section.tables]
    head = f'<meta charset="utf-8"><title>{escape(document.title)}</title><style>{_STYLE}</style>'
    return f'<!doctype html>\n<html lang="en"><head>{head}</head>\n<body>\n' + "\n".join(parts) + "\n</body></html>\n"


def _html_picture(picture: Picture) -> str:
    data = base64.b64encode(picture.png).decode("ascii")
    caption = escape(picture.caption)
    return f'<figure><img alt="{caption}" src="data:image/png;base64,{data}"><figcaption>{caption}</figcaption></figure>'


def _html_table(table: Table) -> str:
    head = "".join(f"<th>{escape(name)}</th>" for name in table.columns)
    body = "\n".join("<tr>" + "".join(_html_cell(cell) for cell in row) + "</tr>" for row in table.rows)
    caption = f"<caption>{escape(table.title)}</caption>"
    return f'<div class="table"><table>{caption}<thead><tr>{head}</tr></thead><tbody>\n{body}\n</tbody></table></div>'


def _html_cell(cell: str) -> str:
    mark = f' class="{cell.replace(" ", "-")}"' if cell in _MARKS else ""
    return f"<td{mark}>{escape(cell)}</td>"
