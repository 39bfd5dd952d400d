// What may be asked about the examples: made by python -m docs.make_suggestions, on the model's weights.

export const SUGGESTIONS = {
  "cat": [
    "What animal is this?",
    "What color is the cat?",
    "Is there a boat?"
  ],
  "coffee": [
    "Is there a dog?",
    "What drink is this?",
    "How many cups are there?",
    "Is there a car?"
  ],
  "rocket": [
    "What color is the sky?",
    "Is there a cat?",
    "Is there a dog?",
    "Is there a horse?"
  ],
  "astronaut": [
    "What color is her suit?",
    "What color is the suit?",
    "What color is the jacket?"
  ],
  "camera": [
    "Is there a person?",
    "What color is his coat?",
    "Is there a cat?"
  ],
  "raccoon": [
    "What animal is this?",
    "What color are the leaves?",
    "Is there a car?",
    "Is there a boat?"
  ]
};

// In Chinese; none where the model does not read it.
export const SUGGESTIONS_ZH = {
  "cat": [
    "这是什么动物？",
    "照片里有汽车吗？",
    "有船吗？"
  ],
  "coffee": [
    "杯子里是什么？",
    "有狗吗？",
    "这是什么饮料？",
    "照片里有汽车吗？"
  ],
  "rocket": [
    "有猫吗？",
    "照片里有汽车吗？",
    "有狗吗？",
    "有船吗？"
  ],
  "astronaut": [
    "有狗吗？",
    "有几个人？",
    "有船吗？"
  ],
  "camera": [
    "有猫吗？",
    "有狗吗？",
    "有船吗？",
    "有马吗？"
  ],
  "raccoon": [
    "这是什么动物？",
    "它的眼睛睁着吗？",
    "照片里有汽车吗？",
    "有船吗？"
  ]
};

// Suggested though the answer is wrong: to show what the model cannot do.
export const FAILURES = ["raccoon: What animal is this?", "raccoon: 这是什么动物？"];
