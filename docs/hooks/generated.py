"""What the pages show of the code itself, made anew at each build: commands' help, the record's fields, pictures, notebooks."""

import inspect
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import click
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[2]
GALLERY = ROOT / "docs" / "gallery"
PICTURES = ROOT / "results" / "reference" / "plots"
SCHEMA = ROOT / "clbench" / "records" / "record.schema.json"
Schema = Mapping[str, Any]


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pictures of the reference records, and the notebooks, to the site."""
    for picture in sorted(PICTURES.glob("*.png")):
        files.append(File.generated(config, f"images/{picture.name}", abs_src_path=str(picture)))
    for script in sorted(GALLERY.glob("*.py")):
        content = "\n".join(notebook_page(script.read_text("utf-8"), script.name))
        files.append(File.generated(config, f"gallery/{script.stem}.md", content=content))
        files.remove(files.src_uris[f"gallery/{script.name}"])
    return files


def notebook_page(script: str, name: str) -> Iterator[str]:
    """Yield a notebook, a Python script in jupytext's percent format, as parts of a page."""
    for cell in script.split("# %%")[1:]:
        kind, _, text = cell.partition("\n")
        if "[markdown]" in kind:
            yield "\n".join(line.removeprefix("#").removeprefix(" ") for line in text.splitlines())
        else:
            yield f"```python\n{text.strip()}\n```\n"
    yield f"*A notebook as a script, `docs/gallery/{name}`: JupyterLab opens it with jupytext, VS Code as it is.*\n"


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Put what is generated in the place of its mark."""
    if "<!-- commands -->" in markdown:
        markdown = markdown.replace("<!-- commands -->", "\n".join(command_sections()))
    if "<!-- record fields -->" in markdown:
        markdown = markdown.replace("<!-- record fields -->", "\n".join(record_sections()))
    return markdown


def command_sections() -> Iterator[str]:
    """Yield the help of each command as a section of Markdown."""
    from clbench.cli.main import main

    parent = click.Context(main, info_name="clbench", terminal_width=80)
    for name, command in sorted(main.commands.items()):
        context = click.Context(command, info_name=name, parent=parent)
        yield f"## clbench {name}\n\n```text\n{command.get_help(context)}\n```\n"
        for inner, subcommand in sorted(getattr(command, "commands", {}).items()):
            of_inner = click.Context(subcommand, info_name=inner, parent=context)
            yield f"### clbench {name} {inner}\n\n```text\n{subcommand.get_help(of_inner)}\n```\n"


def record_sections() -> Iterator[str]:
    """Yield a table of fields for the record and each value within it."""
    schema = json.loads(SCHEMA.read_text("utf-8"))
    values = schema.get("$defs", {})
    top = schema["$ref"].rsplit("/", 1)[-1] if "$ref" in schema else ""
    yield from _table(top or "Record", values.get(top, schema))
    for name in sorted(values.keys() - {top}):
        yield from _table(name, values[name])


def _table(name: str, value: Schema) -> Iterator[str]:
    yield f"## {name}\n\n{inspect.cleandoc(value.get('description', ''))}\n"
    if "properties" in value:
        yield "| field | type | meaning |\n| --- | --- | --- |"
        for field, of_field in value["properties"].items():
            needed = "" if field in value.get("required", ()) else " (may be absent)"
            yield f"| `{field}` | {_type(of_field)} | {of_field.get('description', '')}{needed} |"
    yield ""


def _type(value: Schema) -> str:
    if "$ref" in value:
        name = value["$ref"].rsplit("/", 1)[-1]
        return f"[{name}](#{name.lower()})"
    if "anyOf" in value:
        return " or ".join(_type(one) for one in value["anyOf"])
    if "enum" in value:
        return ", ".join(f"`{json.dumps(one)}`" for one in value["enum"])
    kind = value.get("type", "anything")
    if isinstance(kind, list):
        return " or ".join(kind)
    if kind == "array":
        return f"list of {_type(value.get('items') or {})}"
    if kind == "object" and isinstance(value.get("additionalProperties"), Mapping):
        return f"mapping of names to {_type(value['additionalProperties'])}"
    return str(kind)
