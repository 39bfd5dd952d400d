"""What teaches the Chinese text encoder: pairs of English and Chinese sentences, their alignment, and the training.

`translate` makes Chinese of English questions by hand-written forms (``forms.txt``) and words (``words.txt``), `pairs`
gathers all sentence pairs, `align` says which Chinese word stands for which English one, and `train` distils.
"""
