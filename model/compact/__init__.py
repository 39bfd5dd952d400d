"""The default model: `model` is what the service sees, `network` the layers, `preprocess` the part free of torch.

Nothing is imported here: the server's parent process reads `preprocess` alone, without torch.
"""
