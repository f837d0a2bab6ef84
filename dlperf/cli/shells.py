"""Completion scripts of the shells, where click's own lose names that hold a comma or an equals sign.

Importing this module makes click use them. tests/cli/test_cli_completion.py presses Tab in the real shells.
"""

import os

from click.shell_completion import BashComplete, FishComplete, add_completion_class, split_arg_string


@add_completion_class
class Bash(BashComplete):
    """Takes the line up to the cursor: bash divides `mxnet==1.9` into three words and replaces the last."""

    source_template = """\
%(complete_func)s() {
    local IFS=$'\\n' line="${COMP_LINE:0:COMP_POINT}" before response completion type value
    before="${line%%"$2"}"           # what bash keeps,
    before="${before##*[[:space:]]}" # of this word

    response=$(env COMP_WORDS="$line" %(complete_var)s=bash_complete "$1")

    for completion in $response; do
        IFS=',' read -r type value <<< "$completion"
        case $type in
            dir) compopt -o dirnames ;;
            file) compopt -o default ;;
            plain) COMPREPLY+=("${value#"$before"}") ;;
        esac
    done
}

complete -o nosort -F %(complete_func)s %(prog_name)s
"""

    def get_completion_args(self) -> tuple[list[str], str]:
        """The words before the one at the cursor, and that one."""
        line = os.environ["COMP_WORDS"]
        _, *words = split_arg_string(line)
        return (words[:-1], words[-1]) if words and not line[-1].isspace() else (words, "")


@add_completion_class
class Fish(FishComplete):
    """Divides a candidate from its kind at the first comma alone."""

    source_template = FishComplete.source_template.replace('string split ","', 'string split --max 1 ","')
