"""Questions that ask for text, answered from the text that is in the image.

`questions` knows which questions these are, `lines` finds and recognises the lines of text (PP-OCR, by RapidOCR),
`choice` says which of them the question looks at, and `answer` makes an answer with its score and map of it.
"""
