"""All untrusted input passes here: request bodies, images in any form, and URLs to fetch them from.

`bodies` reads a request's body, `fetch` an image's URL, `decode` turns bytes into a verified image or a clear error,
and `images` makes of it what the engine encodes. Nothing is imported here.
"""
