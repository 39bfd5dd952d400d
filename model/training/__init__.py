"""Training the default model. `train` does it, in this order:

1. `pretrained` and `image_networks`: the parts that come trained. `features` and `texts` go through them once.
2. `tasks`, `made_questions`, `yes_no_questions` and `collage_tasks`: what is asked. `batches` draws it,
   `losses` weighs it, `steps` takes the steps.
3. `match_fit`, `colour_fit` and `yes_no_fit`: what is learned apart, when all else is trained.
4. `tuning`: temperatures of the scores, and the figures to choose by.

Beside it, `reading_fit` fits which text a question asks for, and ``chinese`` trains the encoder of Chinese questions.
"""
