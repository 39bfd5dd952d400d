// What may be asked about the examples: made by python -m docs.make_suggestions, on the model's weights.

export const SUGGESTIONS = {
  "cat": [
    "What animal is this?",
    "What color is the cat's fur?",
    "Is there a boat?"
  ],
  "coffee": [
    "What drink is this?",
    "What color is the handle?",
    "Is there a horse?"
  ],
  "rocket": [
    "What color is the sky?",
    "Is there a tower?",
    "Is there a dog?"
  ],
  "astronaut": [
    "What color is the jacket?",
    "Is there a dog?"
  ],
  "camera": [
    "What color is his coat?",
    "What color is the man's glove?",
    "Is there a cat?"
  ],
  "raccoon": [
    "What animal is this?",
    "What color are the leaves?",
    "Is there an animal?",
    "Is there a boat?"
  ]
};

// In Chinese; none where the model does not read it.
export const SUGGESTIONS_ZH = {
  "cat": [
    "这是什么动物？",
    "这只猫的毛是什么颜色？",
    "有船吗？"
  ],
  "coffee": [
    "这是什么饮料？",
    "有马吗？"
  ],
  "rocket": [
    "天空是什么颜色的？",
    "有狗吗？"
  ],
  "astronaut": [
    "这是男人还是女人？",
    "有马吗？"
  ],
  "camera": [
    "他的衣服是什么颜色？",
    "有猫吗？"
  ],
  "raccoon": [
    "这是什么动物？",
    "叶子是什么颜色？",
    "有船吗？"
  ]
};

// Suggested though the answer is wrong: to show what the model cannot do.
export const FAILURES = ["raccoon: What animal is this?", "raccoon: 这是什么动物？"];
