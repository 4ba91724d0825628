"""One module a task: the tensors of its models, and what happens before and after a model, for trainers and servers alike."""
