"""The Open Inference Protocol v2: any model in plain tensors, for the clients of KServe and Triton."""
