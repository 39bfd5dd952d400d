"""What families share whose language model writes behind a prompt (BLIP-2, InstructBLIP, Llama 3.2 Vision, Idefics).

`family` is the class that they derive from, `prompts` what it is fed, `streaming` the same token by token for several
items, and `cross_reader` what those share whose language model looks at the image itself.
"""
