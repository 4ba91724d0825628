"""What the tables and lists of the services share: types of columns, and how a list is read page by page."""

from typing import Annotated, Any

import sqlalchemy as sa
from sqlalchemy.orm import mapped_column

from tessera.errors import InvalidArgumentError

Name = Annotated[str, mapped_column(sa.String(256))]
Text = Annotated[str, mapped_column(sa.Text)]
Json = Annotated[dict[str, Any], mapped_column(sa.JSON)]
Int64 = Annotated[int, mapped_column(sa.BigInteger)]
# SQLite counts rows by itself only in a column that is called INTEGER.
RowId = Annotated[int, mapped_column(sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True)]

PAGE_SIZE = 100
LARGEST_PAGE = 1000


def page_limits(page_size: int, page_token: str, method: str) -> tuple[int, int | None]:
    """Return how many rows a page may have, and the row before which it begins (None: at the newest); lists go from new to old.

    Args:
        page_size: 1 to 1000; 0 means 100.
        page_token: The row number at which the page before ended; empty for the first page.
        method: The List method that answers such tokens, for the error.

    Raises:
        InvalidArgumentError: The size is another one, or the token is not one of ours.
    """
    if not 0 <= page_size <= LARGEST_PAGE:
        raise InvalidArgumentError(f"page_size is {page_size}; it takes 1 to {LARGEST_PAGE}, or 0 for {PAGE_SIZE}", field="page_size")
    if page_token and not (page_token.isascii() and page_token.isdigit() and len(page_token) < 19):
        raise InvalidArgumentError(f"page_token was not answered by {method}", field="page_token")
    return page_size or PAGE_SIZE, int(page_token) if page_token else None
