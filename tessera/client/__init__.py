"""The Python client: async, typed, with deadlines on every call."""
