"""A module for each dialect: native, OpenAI's two, Hugging Face's, tensors; and the page, probes and metrics."""
