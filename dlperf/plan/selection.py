"""Which cases of a plan are meant: `-k EXPR`, `--only key=value`, `--exclude key=value`.

The grammar of EXPR:

    or_      = and_ ("or" and_)*
    and_     = not_ ("and" not_)*
    not_     = "not" not_ | "(" or_ ")" | KEY OPERATOR VALUE | WORD
    OPERATOR = "==" | "!=" | "<" | "<=" | ">" | ">=" | "~"

`~` is "contains". A WORD alone is a part of the case's id. A value with spaces or operators stands in quotes.
"""

import operator
import re
from collections.abc import Callable, Sequence
from typing import Any

from dlperf.errors import UserError
from dlperf.plan.case import SEARCHED_AXES
from dlperf.plan.documents import unknown
from dlperf.plan.load import split_pair
from dlperf.plan.plan import Plan, PlannedCase
from dlperf.wording import plural

Predicate = Callable[[PlannedCase], bool]


_NUMBERS: dict[str, Callable[[PlannedCase], Any]] = {
    "nodes": lambda item: item.case.topology.nodes,
    "devices_per_node": lambda item: item.case.topology.devices_per_node,
    "world_size": lambda item: item.case.topology.world_size,
    "sample_ratio": lambda item: item.case.sample_ratio,
    "batch_size_per_device": lambda item: item.case.size("batch_size_per_device"),
    "num_classes": lambda item: item.case.size("num_classes"),
}
_TEXTS: dict[str, Callable[[PlannedCase], str]] = {
    "framework": lambda item: item.case.framework,
    "version": lambda item: item.case.version,
    "experiment": lambda item: item.case.workload.experiment,
    "network": lambda item: item.case.workload.network,
    "topology": lambda item: str(item.case.topology),
    "parallelism": lambda item: item.case.parallelism,
    "precision": lambda item: item.case.precision,
    "device": lambda item: item.case.device,
    "data": lambda item: "synthetic" if item.case.data is None else item.case.data.name,
    "status": lambda item: item.status.value,
    "case_id": lambda item: item.case_id,
}
KEYS = (*_TEXTS, *_NUMBERS)

_OPERATORS: dict[str, Callable[[Any, Any], bool]] = {
    "==": operator.eq,
    "!=": operator.ne,
    "<=": operator.le,
    ">=": operator.ge,
    "<": operator.lt,
    ">": operator.gt,
    "~": operator.contains,
}
_ORDERED = frozenset({"<", "<=", ">", ">="})
_DEEPEST = 50  # "not" and "(" within each other
_SIGN = "(?:==|!=|<=|>=|[<>~])"
_VALUE = r"""(?:"[^"]*"|'[^']*'|[^\s()<>=!~"']+)"""
_TOKEN = re.compile(
    rf"""\s*(?P<token>(?P<word>[()]|{_SIGN}|(?:and|or|not)(?![^\s()<>=!~"']))"""
    rf"""|(?P<key>{_VALUE})(?:\s*(?P<sign>{_SIGN})\s*(?P<value>{_VALUE})?)?)"""
)


def select(
    plan: Plan, *, expression: str | None = None, only: Sequence[str] = (), exclude: Sequence[str] = ()
) -> Plan:
    """The part of the plan that is meant; UserError for what cannot be read, and where that is nothing."""
    is_meant = selection(expression=expression, only=only, exclude=exclude)
    chosen = frozenset(item.case_id for item in plan.cases if is_meant(item))
    if not chosen:
        raise UserError(
            f"nothing selected: none of the {plural(len(plan.cases), 'case')} of {plan.sweep} matches"
        )
    return plan.narrowed(chosen)


def selection(
    *, expression: str | None = None, only: Sequence[str] = (), exclude: Sequence[str] = ()
) -> Predicate:
    """The test of one case that the options make; UserError for what cannot be read.

    `only` and `exclude` hold `key=value` or `key=a,b`. A case must meet every key of `only` (with one of the
    values given for it) and none of `exclude`.
    """
    wanted: dict[str, list[Predicate]] = {}
    for key, test in (parse_pair("--only", text) for text in only):
        wanted.setdefault(key, []).append(test)
    unwanted = [parse_pair("--exclude", text)[1] for text in exclude]
    tests = [*map(_any, wanted.values()), *([parse_expression(expression)] if expression is not None else [])]
    return lambda item: all(test(item) for test in tests) and not any(test(item) for test in unwanted)


def parse_expression(text: str) -> Predicate:
    """A `-k` expression as a test of one case; UserError with the column where it cannot be read.

    Its tests are taken out and numbered, and Python itself joins their results.
    """
    text = text.rstrip()
    tests: list[Predicate] = []
    formula: list[str] = []
    opened = position = 0
    wants_test = True
    while position < len(text):
        match = _TOKEN.match(text, position)
        if match is None:
            rest = text[position:].strip()
            raise UserError(f"-k: column {position + 1}: cannot read {rest!r}; compare with ==, != or ~")
        word = match["word"]
        if wants_test and word in ("not", "("):
            opened += word == "("
            if opened > _DEEPEST:
                raise UserError("-k: nested too deeply")
            if word == "not" and formula[-1:] == ["not"]:
                formula.pop()  # one cancels the other
            else:
                formula.append(word)
        elif wants_test and word is None:
            formula.append(f"results[{len(tests)}]")
            tests.append(_test_of(match))
            wants_test = False
        elif not wants_test and (word in ("and", "or") or (word == ")" and opened)):
            opened -= word == ")"
            formula.append(word)
            wants_test = word != ")"
        else:
            break
        position = match.end()
    if wants_test:
        raise _expected("a key, a part of a case's id, 'not' or '('", text, position)
    if opened or position < len(text):
        raise _expected("')'" if opened else "'and', 'or' or the end", text, position)
    code = compile(" ".join(formula), "-k", "eval")
    return lambda item: bool(eval(code, {"results": [test(item) for test in tests]}))  # noqa: S307  ours alone


def _test_of(match: re.Match[str]) -> Predicate:
    """The test of a word alone or of a comparison."""
    key, sign, value = (part and part.strip("\"'") for part in match.group("key", "sign", "value"))
    if sign is None:
        return lambda item: key in item.case_id
    if value is None:
        raise _expected(f"a value after {sign}", match.string, match.end())
    return _comparison(key, sign, value, where=f"-k: column {match.start('key') + 1}")


def _expected(what: str, text: str, position: int) -> UserError:
    match = _TOKEN.match(text, position)
    column, token = (match.start("token"), match["word"] or match["key"]) if match else (len(text), "")
    found = repr(token.strip("\"'")) if token else "the end"
    return UserError(f"-k: column {column + 1}: expected {what}, found {found}")


def parse_pair(option: str, text: str) -> tuple[str, Predicate]:
    """`key=value` or `key=a,b` as its key and a test of one case; UserError names `option`."""
    key, values = split_pair(option, text, example="framework=mxnet")
    where = f"{option} {text}"
    tests = [_comparison(key, "==", value.strip(), where=where) for value in values.split(",")]
    return key, _any(tests)


def _any(tests: Sequence[Predicate]) -> Predicate:
    return lambda item: any(test(item) for test in tests)


def _comparison(key: str, sign: str, value: str, *, where: str) -> Predicate:
    if key not in KEYS:
        raise UserError(f"{where}: {unknown('key', key, KEYS)}")
    if key not in _NUMBERS and sign in _ORDERED:
        raise UserError(f"{where}: {key} is text; compare it with ==, != or ~")
    if key in SEARCHED_AXES and value == "max" and sign in ("==", "!="):
        return lambda item: (_NUMBERS[key](item) == "max") == (sign == "==")
    compare, read = _OPERATORS[sign], _NUMBERS.get(key) or _TEXTS[key]
    wanted: str | float = value
    if key in _NUMBERS and sign != "~":
        try:
            wanted = float(value)
        except ValueError:
            raise UserError(f"{where}: {key} is a number, not {value!r}") from None

    def test(item: PlannedCase) -> bool:
        found = read(item)
        if sign == "~":
            return compare(str(found), wanted)
        if key == "framework" and "==" in value:
            found = f"{item.case.framework}=={item.case.version}"
        # A case without this number, or with one still to be found, differs from every number.
        unknown_number = key in _NUMBERS and found in (None, "max")
        return sign == "!=" if unknown_number else compare(found, wanted)

    return test
