"""Why a server cannot be reached, in words for people in place of gRPC's."""

import re
from urllib.parse import unquote

_ADDRESS = re.compile(r"ipv[46]:(\S+:\d+)|errors resolving (\S+?): ")

_CLOSES = "it closes connections; it may be starting or ending, or speak TLS where the caller has no tls_ca"
_REASONS = (
    ("certificate has expired", "its certificate has expired; renew it"),
    ("certificate is not yet valid", "its certificate is not valid yet; compare the clocks of both machines"),
    ("Hostname Verification Check failed", "its certificate is for another name; call it by a name that the certificate holds"),
    ("CERTIFICATE_VERIFY_FAILED", "its certificate is not vouched for by those of tls_ca; take the authority that signed it"),
    ("WRONG_VERSION_NUMBER", "it speaks no TLS, and tls_ca asks for that"),
    ("alert certificate required", "it wants a certificate of the caller: set tls_cert and tls_key"),
    ("Connection refused", "nobody listens there"),
    ("Domain name not found", "there is no host of this name"),
    *((words, _CLOSES) for words in ("Socket closed", "Connection reset by peer", "Broken pipe")),
)
"""By what stands in gRPC's message; the first that fits counts."""


def why_unreachable(details: str) -> str:
    """Return why no connection could be made.

    Args:
        details: Of a status UNAVAILABLE that gRPC itself made.

    Returns:
        The address and the reason; gRPC's own words where they are not known here.
    """
    said = unquote(details)  # gRPC writes [::1] as %5B::1%5D
    address = _ADDRESS.search(said)
    for part, reason in _REASONS:
        if part in said and address:
            return f"the server at {address[1] or address[2]} cannot be reached: {reason}"
    return f"the server cannot be reached: {said}"
