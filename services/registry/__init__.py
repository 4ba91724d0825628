"""The model registry: models, versions, aliases, experiments, blobs and the stream of changes, over SQL and a blob store."""
