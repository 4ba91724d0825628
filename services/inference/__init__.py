"""The inference service: answers with the versions that the registry names, and swaps them without losing a request."""
