"""A conversation as OpenAI's clients send it, answered as one question about its image, or its images.

Both of OpenAI's routes come here. `options` is what their bodies have in common, `messages` finds the question and the
image, `answers` asks the model and has the parts of a response that both share.
"""
