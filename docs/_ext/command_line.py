"""A page for each verb of the command line, from what typer knows of it."""

from __future__ import annotations

import re
from typing import Any

import typer

HEAD = """\
# The command line

`stepmask VERB --help` prints what these pages hold. They are made from the commands themselves.
Errors that you can mend are one sentence and exit code 2; an interrupt is exit code 130; anything else is a bug.

| verb | what it does | comes with |
| --- | --- | --- |
"""
PRODUCT, LABORATORY = "stepmask", "stepmask-lab"


def pages() -> dict[str, str]:
    """Names of files and their text."""
    group = typer.main.get_command(_application())
    context = typer.Context(group, info_name="stepmask")
    verbs = [(name, group.get_command(context, name)) for name in group.list_commands(context)]
    lines = [f"| [`{name}`]({name}.md) | {_plain(_summary(verb))} | {_owner(verb)} |\n" for name, verb in verbs]
    toctree = "\n```{toctree}\n:hidden:\n\n" + "\n".join(name for name, _ in verbs) + "\n```\n"
    made = {"index.md": HEAD + "".join(lines) + toctree}
    made |= {f"{name}.md": _page(name, verb) for name, verb in verbs}
    return made


def _application() -> Any:
    from stepmask.cli import app

    return app


def _owner(verb: Any) -> str:
    module = getattr(verb.callback, "__module__", "")
    return LABORATORY if module.startswith("stepmask_lab") else PRODUCT


def _summary(verb: Any) -> str:
    return (verb.help or "").strip().partition("\n\n")[0]


def _page(name: str, verb: Any) -> str:
    context = typer.Context(verb, info_name=f"stepmask {name}")
    arguments = [one for one in verb.params if one.param_type_name == "argument"]
    panels: dict[str, list[Any]] = {}
    for one in verb.params:
        if one.param_type_name == "option" and not one.hidden:
            panels.setdefault(getattr(one, "rich_help_panel", None) or "Options", []).append(one)
    usage = " ".join(["stepmask", name, *verb.collect_usage_pieces(context)])
    parts = [f"# stepmask {name}\n", _plain(verb.help or ""), f"```text\n{usage}\n```\n"]
    if _owner(verb) == LABORATORY:
        parts.insert(1, "This verb comes with the laboratory: `pip install ./lab` in a clone of the repository.\n")
    if arguments:
        parts.append("| argument | meaning |\n| --- | --- |\n" + "".join(_argument(one) for one in arguments))
    for title, options in panels.items():
        table = "".join(_option(one, context) for one in options)
        parts.append(f"## {title}\n\n| option | default | meaning |\n| --- | --- | --- |\n{table}")
    return "\n".join(parts)


def _argument(one: Any) -> str:
    return f"| `{one.make_metavar(None) if False else (one.metavar or one.name.upper())}` | {_plain(one.help or '')} |\n"


def _option(one: Any, context: Any) -> str:
    names = ", ".join(f"`{name}`" for name in [*one.opts, *one.secondary_opts])
    value = "" if one.is_flag else f" `{_code(one.make_metavar(context))}`"
    return f"| {names}{value} | {_default(one, context)} | {_plain(one.help or '')} |\n"


def _default(one: Any, context: Any) -> str:
    value = one.get_default(context, call=False)
    if one.required:
        return "required"
    if value is None or value == [] or value == () or callable(value) or "UNSET" in repr(value).upper():
        return "–"
    if one.is_flag:
        return "yes" if value else "no"
    return f"`{_code(str(getattr(value, 'value', value)))}`"


def _code(text: str) -> str:
    return text.replace("|", r"\|")


def _plain(text: str) -> str:
    """Help without the markup of terminals, safe in a table of Markdown."""
    text = re.sub(r"\[/?(?:b|i|dim|bold|italic)\]", "**", text.replace("\\[", "\0"))
    text = text.replace("\0", "[")
    if "\n\n" in text.strip():
        return "\n\n".join(_plain(part) for part in text.strip().split("\n\n")) + "\n"
    text = " ".join(text.split())
    text = re.sub(r"(?<![\w`])(--[a-z][\w-]*)", r"`\1`", text)
    return re.sub(r"([|<>_])(?![^`]*`(?:[^`]*`[^`]*`)*[^`]*$)", r"\\\1", text) + ("" if "|" in text else "")
