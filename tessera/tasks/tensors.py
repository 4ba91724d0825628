"""Task "tensors": no task at all. What goes into the model and what comes out are tensors of any names, types and shapes.

A version of this task has no typed service and no pre- or postprocessing: it is asked by the Open Inference Protocol alone, in the tensors
that its manifest declares.
"""

NAME = "tensors"
"""Name of the task in manifests."""
REVISION = 1
"""There is no preprocessing that could change."""
