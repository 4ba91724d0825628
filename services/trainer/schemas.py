"""JSON schemas as workers announce them, and values that are checked against them. Nothing is ever fetched for a schema."""

from collections.abc import Iterator
from typing import Any

from google.protobuf import json_format
from google.protobuf.struct_pb2 import Struct
from jsonschema import Draft202012Validator
from jsonschema.exceptions import SchemaError, ValidationError, best_match
from referencing import Registry
from referencing.exceptions import Unresolvable
from referencing.jsonschema import DRAFT202012

from tessera.errors import InvalidArgumentError
from tessera.names import shown


def values_of(struct: Struct, field: str) -> dict[str, Any]:
    """Return what a struct holds. Raises InvalidArgumentError if it holds what JSON cannot: NaN or an infinity."""
    try:
        values: dict[str, Any] = json_format.MessageToDict(struct)
    except (ValueError, json_format.Error) as error:
        raise InvalidArgumentError(f"{field}: {error}", field=field) from error
    return values


def check_schema(schema: Struct, field: str) -> None:
    """Make sure that values can be checked against a schema.

    Raises:
        InvalidArgumentError: It is no JSON schema (draft 2020-12), or refers to what is not in it.
    """
    rules = values_of(schema, field)
    try:
        Draft202012Validator.check_schema(rules, format_checker=Draft202012Validator.FORMAT_CHECKER)
    except SchemaError as error:
        path = ".".join([field, *map(str, error.absolute_path)])
        raise InvalidArgumentError(f"{path} is not valid in a JSON schema: {error.message}", field=field) from error
    resolver = Registry().resolver_with_root(DRAFT202012.create_resource(rules))
    for reference in _references(rules):
        try:
            resolver.lookup(reference)
        except (Unresolvable, ValueError) as error:
            raise InvalidArgumentError(f"{field} refers to {shown(reference)}, which is not in it", field=field) from error
    find_mistake({}, rules, field)


def find_mistake(values: dict[str, Any], rules: dict[str, Any], field: str) -> ValidationError | None:
    """Return what is wrong with values by a schema that `check_schema` has let pass, None if nothing is.

    Raises:
        InvalidArgumentError: The schema refers to itself without end.
    """
    try:
        mistake: ValidationError | None = best_match(Draft202012Validator(rules, registry=Registry()).iter_errors(values))
    except RecursionError as error:
        raise InvalidArgumentError(f"{field}: the schema refers to itself without end", field=field) from error
    return mistake


def _references(rules: Any) -> Iterator[str]:
    """Yield every reference in a schema."""
    if isinstance(rules, dict):
        yield from (rules[key] for key in ("$ref", "$dynamicRef") if isinstance(rules.get(key), str))
    for inner in rules.values() if isinstance(rules, dict) else rules if isinstance(rules, list) else ():
        yield from _references(inner)
