"""Scripts that complete commands, flags and values in a shell, made from the options like all other faces of them."""

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from know_hf.cli.flags import spellings
from know_hf.cli.options import PROGRAM
from know_hf.forgetting.options import training_options
from know_hf.settings import Option

if TYPE_CHECKING:
    from know_hf.cli.commands import Command

_COMMON = {"help": "show this help", "traceback": "show where an error came from"}


@dataclass(frozen=True)
class Flag:
    """One flag as a shell sees it.

    Args:
        name: Without dashes in front, words joined by ``-``.
        help: Its first sentence.
        takes: What follows it: ``""`` nothing, ``"number"``, ``"name"`` one of ``values``, or ``"file"``.
        values: The names that it may be given.
    """

    name: str
    help: str
    takes: str = ""
    values: tuple[str, ...] = ()


def flags_of(command: "Command") -> list[Flag]:
    """All flags of a command, every training argument among them where it trains."""
    options = {**(training_options() or {}), **command.options} if command.trains else command.options
    found = [_flag(name, known) for name, known in options.items() if not known.positional]
    return [*found, *(Flag(name, text) for name, text in _COMMON.items())]


def values_of(command: "Command") -> tuple[str, ...]:
    """The names that a command's first word may be, where they are few."""
    return next((known.choices for known in command.options.values() if known.positional), ())


def _flag(name: str, known: Option) -> Flag:
    # A training argument that is true by default may be given as false, and is listed by its own name.
    negative = known.form is bool and known.default is True
    text = f"leave this out: {known.help}" if negative else known.help
    takes = "" if known.form is bool else "number" if known.form in (int, float) else "file"
    if names := tuple(known.choices or known.usual()):
        takes = "name"
    spelt = spellings(f"no_{name}" if negative else name)[0].removeprefix("--")
    return Flag(spelt, _sentence(text), takes, names)


def _sentence(text: str) -> str:
    return " ".join(text.split(". ")[0].rstrip(".").split())


def script(shell: str, commands: "Mapping[str, Command]") -> str:
    """The script for a shell.

    Args:
        shell: ``"bash"``, ``"zsh"`` or ``"fish"``.
        commands: Name → command.

    Returns:
        Text to be sourced, or kept where the shell looks for completions; its first lines say where.
    """
    return SHELLS[shell](commands)


def bash(commands: "Mapping[str, Command]") -> str:
    """For bash 4 and later: ``_`` and ``-`` in flags are the same, as they are to the program."""
    flags, values, numbers = [], [], []
    for name, command in commands.items():
        own = flags_of(command)
        flags.append(f"        {name}) flags='{' '.join(f'--{flag.name}' for flag in own)}' ;;")
        if values_of(command):
            values.append(f"        '{name} {name}') values='{' '.join(values_of(command))}' ;;")
        values += [f"        '{name} --{f.name}') values='{' '.join(f.values)}' ;;" for f in own if f.values]
        numbers += [f"'{name} --{flag.name}'" for flag in own if flag.takes == "number"]
    return f"""# Completions of {PROGRAM} for bash. Keep them with
#   {PROGRAM} completion bash > ~/.local/share/bash-completion/completions/{PROGRAM}
# or load them into this shell with
#   source <({PROGRAM} completion bash)
_know_hf() {{
    local cur=${{COMP_WORDS[COMP_CWORD]}} prev=${{COMP_WORDS[COMP_CWORD-1]}} command='' flags='' values='' i
    if [[ $cur == '=' ]]; then cur=''; elif [[ $prev == '=' ]]; then prev=${{COMP_WORDS[COMP_CWORD-2]}}; fi
    for ((i = 1; i < COMP_CWORD; i++)); do
        if [[ ${{COMP_WORDS[i]}} != -* ]]; then command=${{COMP_WORDS[i]}}; break; fi
    done
    case $command in
        '') flags='--help --version --traceback'; values='{" ".join(commands)}' ;;
{chr(10).join(flags)}
    esac
    case "$command ${{prev//_/-}}" in
{chr(10).join(values)}
        {"|".join(numbers)}) compopt +o default ;;
    esac
    COMPREPLY=()
    if [[ $cur == -* ]]; then
        if [[ $cur == *_* ]]; then flags=${{flags//-/_}}; flags=${{flags//__/--}}; fi
        COMPREPLY=($(compgen -W "$flags" -- "$cur"))
    elif [[ -n $values ]]; then
        COMPREPLY=($(compgen -W "$values" -- "$cur"))
    fi
}}
complete -o default -F _know_hf {PROGRAM}
"""


def zsh(commands: "Mapping[str, Command]") -> str:
    """For zsh, with the help of commands and flags beside their names."""
    cases = []
    for name, command in commands.items():
        own = [shlex.quote(_zsh_flag(flag)) for flag in flags_of(command)]
        first = f":value:({' '.join(values_of(command))})" if values_of(command) else ":file:_files"
        cases.append(f"        {name})\n            _arguments \\\n                " + " \\\n                ".join(
            [*own, shlex.quote(f"*{first}")]) + "\n            ;;")  # fmt: skip
    named = "\n        ".join(shlex.quote(f"{name}:{command.help}") for name, command in commands.items())
    return f"""#compdef {PROGRAM}
# Completions of {PROGRAM} for zsh. Keep them in a folder of $fpath, such as
#   {PROGRAM} completion zsh > ~/.zfunc/_{PROGRAM}
# or load them into this shell, after compinit, with
#   source <({PROGRAM} completion zsh)
_know_hf() {{
    local curcontext=$curcontext state line
    local -a commands
    commands=(
        {named}
    )
    _arguments -C '--help[show this help]' '--version[show the version]' '--traceback[show where an error came from]' \\
        '1:command:->command' '*::argument:->argument'
    case $state in
    command) _describe command commands ;;
    argument)
        case $words[1] in
{chr(10).join(cases)}
        esac
        ;;
    esac
}}
if [[ $funcstack[1] == _know_hf || $funcstack[1] == _know-hf ]]; then _know_hf "$@"; else compdef _know_hf {PROGRAM}; fi
"""


def _zsh_flag(flag: Flag) -> str:
    text = "".join(f"\\{c}" if c in "[]:\\" else c for c in flag.help)
    follows = {"": "", "number": ":number:", "name": f":name:({' '.join(flag.values)})", "file": ":file:_files"}
    return f"--{flag.name}[{text}]{follows[flag.takes]}"


def fish(commands: "Mapping[str, Command]") -> str:
    """For fish, with the help of commands and flags beside their names."""
    lines = [
        f"# Completions of {PROGRAM} for fish. Keep them with",
        f"#   {PROGRAM} completion fish > ~/.config/fish/completions/{PROGRAM}.fish",
        "# or load them into this shell with",
        f"#   {PROGRAM} completion fish | source",
    ]
    start = f"complete -c {PROGRAM}"
    for name, text in {**_COMMON, "version": "show the version"}.items():
        lines.append(f"{start} -n __fish_use_subcommand -l {name} -d {_fish(text)}")
    for name, command in commands.items():
        lines.append(f"{start} -n __fish_use_subcommand -f -a {name} -d {_fish(command.help)}")
        where = f"{start} -n {_fish(f'__fish_seen_subcommand_from {name}')}"
        if values_of(command):
            lines.append(f"{where} -f -a {_fish(' '.join(values_of(command)))}")
        for flag in flags_of(command):
            follows = {"": "", "number": " -x", "name": f" -x -a {_fish(' '.join(flag.values))}", "file": " -r -F"}
            lines.append(f"{where} -l {flag.name}{follows[flag.takes]} -d {_fish(flag.help)}")
    return "\n".join(lines) + "\n"


def _fish(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


#: Shell → what makes its script.
SHELLS = {"bash": bash, "zsh": zsh, "fish": fish}
