"""The default model: `model` is what the service sees, `network` the layers, `preprocess` the part free of torch.
`answers` scores the answers, `token_maps` says where each token looked.

Nothing is imported here: the server's parent process reads `preprocess` alone, without torch.
"""
