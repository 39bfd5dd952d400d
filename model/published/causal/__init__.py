"""Causal vision-language models: image tokens among the text. A family is a module that says what is special to it
(`ImageTokens`); everything else is `CausalVLM`."""
