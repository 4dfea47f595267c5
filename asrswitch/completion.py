"""Scripts that complete the command line in bash, zsh and fish: ``asrswitch --completion SHELL``."""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Iterable, Iterator, Mapping, Sequence

import shtab

from asrswitch.catalogue.published import PUBLISHED
from asrswitch.cli import VERBS, module_of
from asrswitch.errors import UsageError
from asrswitch.plan import ALLOCATORS, DEFAULT_MODELS, LANGUAGES, CacheState, Order, Strategy, Trimming

READER_MAY_LEAVE = True
SHELLS = ("bash", "zsh", "fish")
_PUBLISHED = tuple(dict.fromkeys(item.name for item in PUBLISHED))
_NAMES = " ".join(dict.fromkeys((*DEFAULT_MODELS, *(name.rpartition("-")[2] for name in _PUBLISHED))))

# A model is a name, a file, or LABEL= and one of these. In bash the label is cut off by _asrswitch below.
_MODEL = {
    "bash": "_asrswitch_model_files",  # shtab takes what has _file in its name as file names
    "zsh": "_asrswitch_models",
    "fish": "(_asrswitch_models)",
    "preamble": {
        "bash": f"""\
_asrswitch_model_files() {{
  compgen -W "{_NAMES}" -- "$1"
  compgen -f -- "$1"
}}
""",
        "zsh": f"""\
_asrswitch_models() {{
  compset -P '*='
  compadd {_NAMES}
  _files
}}
""",
        "fish": f"""\
function _asrswitch_models
  set -l word (string replace -r '^--[a-z]+=' '' -- (commandline -ct))
  set -l label (string match -r '^.*=' -- $word)
  set -l path (string replace -r '^.*=' '' -- $word)
  printf '%s\\n' "$label"{{{_NAMES.replace(" ", ",")}}} "$label"(__fish_complete_path $path)
end
""",
    },
}
# By what the help calls a word, or where it says nothing, by the option's name.
_PATHS = {
    **dict.fromkeys(("[LABEL=]PATH", "LABEL=PATH", "model"), _MODEL),
    **dict.fromkeys(("DIR", "HF_DIR", "out", "resume"), shtab.DIRECTORY),
    **dict.fromkeys(("FILE", "OUT.bin", "RUN", "RUN_DIR", "audio", "experiment", "library"), shtab.FILE),
}
# Of words that the parsers leave to others to check, for they may be lists, or in an experiment file.
_CHOICES: Mapping[str, Iterable[str]] = {
    "strategy": (*(strategy.value for strategy in Strategy), "all"),
    "allocator": (*ALLOCATORS, "all"),
    "order": [order.value for order in Order],
    "cache": [state.value for state in CacheState],
    "trim": [trimming.value for trimming in Trimming],
    "language": LANGUAGES.values(),
    "name": _PUBLISHED,  # of `models fetch`
}
# To bash, `-m label=path` and `--order=given` are several words. It completes what follows the sign.
_BASH_WORDS = """

_asrswitch() {
  local words=("${COMP_WORDS[0]}") word
  for word in "${COMP_WORDS[@]:1:COMP_CWORD}" ""; do
    [[ $word == = ]] || { words+=("$word"); continue; }
    [[ ${words[-1]} == -* ]] || unset 'words[-1]'
  done
  [[ ${COMP_WORDS[COMP_CWORD]} == = ]] || unset 'words[-1]'
  local COMP_WORDS=("${words[@]}") COMP_CWORD=$((${#words[@]} - 1))
  _shtab_asrswitch
}
complete -o bashdefault -F _asrswitch asrswitch"""


def main(words: Sequence[str]) -> int:
    """Print the script for a shell."""
    if len(words) != 1 or words[0] not in SHELLS:
        given = " ".join(["--completion", *words])
        raise UsageError(f"{given}: give one of {', '.join(SHELLS)}, for example `--completion bash`")
    print(completion_script(words[0]))
    return 0


def completion_script(shell: str) -> str:
    """What the shell must read to complete the command ``asrswitch``."""
    script = shtab.complete(_make_parser(), shell)
    return script + _BASH_WORDS if shell == "bash" else script


def _make_parser() -> argparse.ArgumentParser:
    """One parser with all verbs; without a verb, it is that of ``run``."""
    commands = {verb: importlib.import_module(module_of(verb)) for verb in VERBS}
    parser = argparse.ArgumentParser("asrswitch", parents=[commands["run"].make_parser()], add_help=False)
    parser.add_argument("--completion", choices=SHELLS, help="print a script that completes in that shell")
    verbs = parser.add_subparsers()
    for verb, command in commands.items():
        own = command.make_parser()
        verbs.add_parser(
            verb, parents=[own], add_help=False, help=command.__doc__, description=command.__doc__
        )
    for action in _actions(parser):
        if action.dest in _CHOICES and not action.choices:
            action.choices = list(_CHOICES[action.dest])
        elif path := _PATHS.get(str(action.metavar or action.dest)):
            action.complete = path  # type: ignore[attr-defined]
    return parser


def _actions(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    """The options and words of a parser and of the verbs below it."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for verb in action.choices.values():
                yield from _actions(verb)
        else:
            yield action
