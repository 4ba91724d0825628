"""Queued inference: the truth about requests in SQL, dispatch over Redis Streams, inputs and results in the registry's blob store."""
