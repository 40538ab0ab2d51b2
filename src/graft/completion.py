"""Tab completion: the shell's side, and the line that Hydra is to complete."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence

#: Works for ``graft`` and ``python -m graft``; COMP_LINE reaches the query with one word for the program.
_BASH = """_graft_completion() {
    local line="${COMP_LINE:0:COMP_POINT}" word
    local program=("${COMP_WORDS[0]}")
    if [[ "$line" == *" -m graft "* ]]; then
        program+=(-m graft)
        line="graft ${line#* -m graft }"
    elif [[ "${program[0]##*/}" != graft ]]; then
        return
    fi
    word="${line##* }"
    local offered=$(COMP_LINE="$line" "${program[@]}" -sc query=bash 2>/dev/null)
    COMPREPLY=($(compgen -W "$offered" -- "$word"))
}
COMP_WORDBREAKS=${COMP_WORDBREAKS//=}
complete -o nospace -o default -F _graft_completion """


def wants_completion(words: Sequence[str]) -> bool:
    """Whether a shell asks, not a person."""
    return "-sc" in words or "--shell-completion" in words


def bash_script() -> str:
    """Return what the shell evaluates, for the way in which graft was started."""
    return _BASH + ("python python3" if sys.argv[0].endswith("__main__.py") else "graft")


def complete_verb(verbs: Mapping[str, Sequence[str]]) -> tuple[str, list[str]]:
    """Read the line that the shell completes.

    The verb is taken out of it, because Hydra knows overrides only.

    Args:
        verbs: The words that may follow each verb; empty for a verb whose overrides Hydra completes.

    Returns:
        The verb that Hydra is to complete; empty when there is none, and then the words to offer.
    """
    _, *words = os.environ.get("COMP_LINE", "").split(" ") or [""]
    if len(words) < 2:
        return "", [verb for verb in verbs if verb.startswith("".join(words))]
    verb, *rest = words
    if verbs.get(verb, ("",)):
        return "", [word for word in verbs.get(verb, ()) if word.startswith(rest[-1])]
    os.environ["COMP_LINE"] = " ".join(["graft", *rest])
    os.environ["COMP_POINT"] = str(len(os.environ["COMP_LINE"]))
    return verb, []
