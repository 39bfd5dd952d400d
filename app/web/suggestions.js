// What may be asked about the examples: made by python -m docs.make_suggestions, on the model's weights.

export const SUGGESTIONS = {
  "cat": [
    "What animal is this?",
    "Are its eyes open?",
    "What color is the cat?",
    "Is it a cat or a dog?"
  ],
  "coffee": [
    "What is in the cup?",
    "Is there a dog?",
    "What drink is this?",
    "How many cups are there?"
  ],
  "rocket": [
    "What color is the sky?",
    "Is there a cat?",
    "Is there a car?"
  ],
  "astronaut": [
    "Is there a person?",
    "Is she smiling?",
    "Is there a dog?",
    "How many people are there?"
  ],
  "camera": [
    "Is there a man?",
    "Is there a person?",
    "What color is his coat?",
    "Is there a cat?"
  ],
  "coins": [
    "How many coins are there?",
    "Is there a cat?",
    "Are there coins?",
    "Is there a dog?"
  ]
};

// In Chinese; none where the model does not read it.
export const SUGGESTIONS_ZH = {};

// Suggested though the answer is wrong: to show what the model cannot do.
export const FAILURES = ["coins: How many coins are there?"];
