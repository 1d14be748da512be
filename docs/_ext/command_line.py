"""A page for each verb of the command line, from what typer knows of it."""

from __future__ import annotations

import re
from typing import Any

import typer

HEAD = """\
# Command line

`stepmask VERB --help` prints what these pages hold; they are made from the commands themselves. An error that you can
mend is one sentence and exit code 2. An interrupt is exit code 130. Anything else is a bug and shows its traceback.

| verb | what it does | comes with |
| --- | --- | --- |
"""
LABORATORY = """\
This verb comes with the laboratory. `pip install . ./lab` in a clone of the repository installs both.
"""


def pages() -> dict[str, str]:
    """Names of files and their text."""
    from stepmask.cli import app

    group = typer.main.get_command(app)
    context = typer.Context(group, info_name="stepmask")
    verbs = {name: group.get_command(context, name) for name in group.list_commands(context)}
    lines = [f"| [`{name}`]({name}.md) | {_plain(_summary(verb))} | {_owner(verb)} |\n" for name, verb in verbs.items()]
    toctree = "\n".join(["\n```{toctree}", ":hidden:\n", *verbs, "```\n"])
    return {"index.md": HEAD + "".join(lines) + toctree} | {
        f"{name}.md": _page(name, verb) for name, verb in verbs.items()
    }


def _owner(verb: Any) -> str:
    return "stepmask-lab" if verb.callback.__module__.startswith("stepmask_lab") else "stepmask"


def _summary(verb: Any) -> str:
    return (verb.help or "").strip().partition("\n\n")[0]


def _page(name: str, verb: Any) -> str:
    context = typer.Context(verb, info_name=f"stepmask {name}")
    arguments = [one for one in verb.params if one.param_type_name == "argument"]
    options = [one for one in verb.params if one.param_type_name == "option" and not one.hidden]
    needed = [f"{one.opts[0]} {_metavar(one, context)}" for one in options if one.required]
    names = [one.metavar if one.required else f"[{one.metavar}]" for one in arguments]
    parts = [f"# {name}\n"]
    parts += [LABORATORY] if _owner(verb) == "stepmask-lab" else []
    parts += [f"{_plain(text)}\n" for text in (verb.help or "").strip().split("\n\n")]
    parts.append("\n".join(["```text", " ".join(["stepmask", name, *names, *needed, "[OPTIONS]"]), "```\n"]))
    if arguments:
        rows = "".join(f"| `{one.metavar}` | {_plain(one.help or '')} |\n" for one in arguments)
        parts.append(f"| argument | meaning |\n| --- | --- |\n{rows}")
    panels: dict[str, list[Any]] = {}
    for one in options:
        panels.setdefault(one.rich_help_panel or "Options", []).append(one)
    for title, some in panels.items():
        rows = "".join(_row(one, context) for one in some)
        parts.append(f"## {title}\n\n| option | default | meaning |\n| --- | --- | --- |\n{rows}")
    if verb.epilog:
        parts.append("## More\n")
        parts += [f"{_plain(text)}\n" for text in verb.epilog.strip().split("\n\n")]
    return "\n".join(parts)


def _row(one: Any, context: Any) -> str:
    names = ", ".join(f"`{name}`" for name in (*one.opts, *one.secondary_opts))
    value = _metavar(one, context)
    choices = f"<br>{', '.join(f'`{choice}`' for choice in value.split('|'))}" if "|" in value else ""
    shown = "" if choices or not value else f" `{value}`"
    return f"| {names}{shown}{choices} | {_default(one)} | {_plain(one.help or '')} |\n"


def _metavar(one: Any, context: Any) -> str:
    """What stands behind the option: a metavar, a type or its choices; empty for a flag."""
    if one.is_flag:
        return ""
    if one.metavar:
        return one.metavar
    spelled = one.get_help_record(context)[0].rpartition(" --")[2].partition(" ")[2]
    spelled = spelled.strip("<>").removesuffix(" range")
    return {"str": "TEXT", "int": "N", "float": "X", "path": "FILE"}.get(spelled, spelled)


def _default(one: Any) -> str:
    value = one.default
    if one.required:
        return "required"
    if value is None or value in ([], ()) or callable(value):
        return "–"
    if one.is_flag:
        return "yes" if value else "no"
    return f"`{getattr(value, 'value', value)}`"


def _plain(text: str) -> str:
    """Help without the markup of terminals, safe in a table of Markdown."""
    text = re.sub(r"\[/?(?:b|bold)\]", "\1", text.replace("\\[", "\0"))
    text = text.replace("**", r"\*\*").replace("\1", "**")
    text = re.sub(r"([|<>_$])", r"\\\1", " ".join(text.replace("\0", "[").split()))
    return re.sub(r"(?<![\w`-])(--[a-z][\w-]*)", lambda found: f"`{found[1]}`", text)
