"""Settings that come with a job, checked against their class, with errors that help whoever sent them."""

from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from tessera.errors import InvalidArgumentError

Settings = TypeVar("Settings", bound=BaseModel)


def validate(cls: type[Settings], values: Mapping[str, Any], *, field: str, what: str) -> Settings:
    """Return `values` as an instance of `cls`, with its defaults filled in.

    Args:
        cls: A pydantic model that forbids unknown fields.
        values: From outside; whole numbers may come as floats, as they do from a protobuf Struct.
        field: Path of `values` in the request, for errors.
        what: What one of the fields is called, for errors, for example "hyperparameter".

    Raises:
        InvalidArgumentError: A field is unknown (the message lists the known ones) or its value is wrong.
    """
    for name in values:
        if name not in cls.model_fields:
            raise InvalidArgumentError.unknown(what, name, cls.model_fields, field=f"{field}.{name}")
    try:
        return cls.model_validate(dict(values))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        path = ".".join([field, *map(str, first["loc"])])
        raise InvalidArgumentError(f"{what} {path}: {first['msg']}, not {first['input']!r}", field=path) from None
