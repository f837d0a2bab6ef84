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
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

from dlperf.errors import UserError
from dlperf.plan.case import SEARCHED_AXES
from dlperf.plan.documents import unknown
from dlperf.plan.plan import Plan, PlannedCase

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
_TOKEN = re.compile(
    r"""\s*(?:(?P<quoted>"[^"]*"|'[^']*')|(?P<sign>==|!=|<=|>=|[<>~()])|(?P<word>[^\s()<>=!~"']+))"""
)


def select(
    plan: Plan, *, expression: str | None = None, only: Sequence[str] = (), exclude: Sequence[str] = ()
) -> Plan:
    """The part of the plan that is meant; UserError for what cannot be read, and where nothing is selected.

    `only` and `exclude` hold `key=value` or `key=a,b`. A case must meet every key of `only` (with one of the
    values given for it) and none of `exclude`.
    """
    wanted: dict[str, list[Predicate]] = {}
    for key, test in (parse_pair("--only", text) for text in only):
        wanted.setdefault(key, []).append(test)
    unwanted = [parse_pair("--exclude", text)[1] for text in exclude]
    tests = [*map(_any, wanted.values()), *([parse_expression(expression)] if expression is not None else [])]
    chosen = frozenset(
        item.case_id
        for item in plan.cases
        if all(test(item) for test in tests) and not any(test(item) for test in unwanted)
    )
    if not chosen:
        raise UserError(f"nothing selected: none of the {len(plan.cases)} cases of {plan.sweep} matches")
    return plan.narrowed(chosen)


def parse_expression(text: str) -> Predicate:
    """A `-k` expression as a test of one case; UserError with the column where it cannot be read."""
    return _Parser(text).parse()


def parse_pair(option: str, text: str) -> tuple[str, Predicate]:
    """`key=value` or `key=a,b` as its key and a test of one case; UserError names `option`."""
    key, separator, values = text.partition("=")
    key = key.strip()
    if not separator or not key:
        raise UserError(f"{option} {text}: write key=value, such as {option} framework=mxnet")
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


class _Token(NamedTuple):
    text: str
    column: int  # from 1
    kind: str  # quoted, sign, word or end


class _Parser:
    """Recursive descent, one method a rule of the grammar above."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._tokens = self._split()
        self._next = 0
        self._depth = 0

    def parse(self) -> Predicate:
        test = self._or()
        if self._peek.kind != "end":
            raise self._error("expected 'and', 'or' or the end")
        return test

    def _split(self) -> list[_Token]:
        tokens, position = [], 0
        text = self._text.rstrip()
        while position < len(text):
            match = _TOKEN.match(text, position)
            if match is None:
                rest = text[position:].strip()
                raise UserError(f"-k: column {position + 1}: cannot read {rest!r}; compare with ==, != or ~")
            kind = str(match.lastgroup)
            tokens.append(_Token(match[kind].strip("\"'"), match.start(kind) + 1, kind))
            position = match.end()
        return [*tokens, _Token("", len(text) + 1, "end")]

    @property
    def _peek(self) -> _Token:
        return self._tokens[self._next]

    def _take(self) -> _Token:
        token = self._peek
        self._next += 1
        return token

    def _accept(self, text: str) -> bool:
        matches = self._peek.text == text and self._peek.kind in ("word", "sign")
        self._next += matches
        return matches

    def _error(self, message: str) -> UserError:
        token = self._peek
        found = repr(token.text) if token.kind != "end" else "the end"
        return UserError(f"-k: column {token.column}: {message}, found {found}")

    def _or(self) -> Predicate:
        return self._joined("or", self._and, any)

    def _and(self) -> Predicate:
        return self._joined("and", self._not, all)

    def _joined(
        self, word: str, rule: Callable[[], Predicate], combine: Callable[[Iterable[bool]], bool]
    ) -> Predicate:
        tests = [rule()]
        while self._accept(word):
            tests.append(rule())
        return lambda item: combine(test(item) for test in tests)

    def _not(self) -> Predicate:
        if self._accept("not"):
            test = self._nested(self._not)
            return lambda item: not test(item)
        if self._accept("("):
            test = self._nested(self._or)
            if not self._accept(")"):
                raise self._error("expected ')'")
            return test
        return self._comparison()

    def _nested(self, rule: Callable[[], Predicate]) -> Predicate:
        """The rule one level down; the test nests as the text does, and Python's stack is finite."""
        self._depth += 1
        if self._depth > _DEEPEST:
            raise UserError("-k: nested too deeply")
        test = rule()
        self._depth -= 1
        return test

    def _comparison(self) -> Predicate:
        if self._peek.kind not in ("word", "quoted") or self._peek.text in ("and", "or"):
            raise self._error("expected a key, a part of a case's id, 'not' or '('")
        key = self._take()
        if self._peek.text not in _OPERATORS or self._peek.kind != "sign":
            return lambda item: key.text in item.case_id
        sign = self._take().text
        if self._peek.kind not in ("word", "quoted"):
            raise self._error(f"expected a value after {sign}")
        return _comparison(key.text, sign, self._take().text, where=f"-k: column {key.column}")
