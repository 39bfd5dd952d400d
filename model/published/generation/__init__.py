"""Writing answers token by token, whatever the model: `batch` has the rows that are under way and the loop over them.

`config` says how a folder's model writes unless a request says otherwise, and `detokenizer` makes text of the ids.
`sessions` runs a batch over rows that have read their prompts; `beam_search` writes the likeliest whole answers.
"""
