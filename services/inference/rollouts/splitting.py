"""Which calls belong to the share of the version on trial."""

import hashlib
import random

_BITS = 53
"""As many as a float keeps exactly."""


def position(model: str, alias: str, sticky_key: str) -> float:
    """Return where a sticky key lies on a scale from 0 to below 100: the calls below the weight, in percent, go to the candidate.

    It is the same on every server and after every restart, for every rollout of the alias; so a key that the candidate answers at one
    weight it answers at every higher one.
    """
    digest = hashlib.blake2b("\0".join((model, alias, sticky_key)).encode(errors="surrogatepass"), digest_size=8).digest()
    return (int.from_bytes(digest) >> (64 - _BITS)) / (1 << _BITS) * 100


def drawn(percent: float, source: random.Random) -> bool:
    """Draw with this chance, 0 to 100."""
    return source.random() * 100 < percent
