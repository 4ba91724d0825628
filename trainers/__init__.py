"""Training: families of models, the loop that they share, and the worker that runs jobs."""
