// What may be asked about the examples: made by python -m docs.make_suggestions, on the model's weights.

export const SUGGESTIONS = {
  "cat": [
    "What animal is this?",
    "Is there a cat?",
    "What color is the cat's fur?",
    "Is there a boat?"
  ],
  "coffee": [
    "What drink is in the cup?",
    "What color is the coffee cup?",
    "Is there a horse?"
  ],
  "rocket": [
    "What color is the sky?",
    "Is there a tower?",
    "Is there a dog?"
  ],
  "astronaut": [
    "What color is the jacket?",
    "What color is the lady's hair?",
    "Is there a horse?"
  ],
  "camera": [
    "What color is his coat?",
    "Are there buildings?",
    "Is there a dog?"
  ],
  "raccoon": [
    "What color are the leaves?",
    "Is there an animal?",
    "Is there a boat?",
    "What animal is this?"
  ]
};

// In Chinese; none where the model does not read it.
export const SUGGESTIONS_ZH = {
  "cat": [
    "这是什么动物？",
    "有猫吗？",
    "有船吗？"
  ],
  "coffee": [
    "这是什么饮品？",
    "有马吗？"
  ],
  "rocket": [
    "天空是什么颜色的？",
    "有塔吗？",
    "有狗吗？"
  ],
  "astronaut": [
    "这是男人还是女人？",
    "那位女士的头发是什么颜色？",
    "有马吗？"
  ],
  "camera": [
    "他的衣服是什么颜色？",
    "有楼吗？",
    "有马吗？"
  ],
  "raccoon": [
    "叶子是什么颜色？",
    "有动物吗？",
    "照片里有汽车吗？",
    "这是什么动物？"
  ]
};

// Suggested though the answer is wrong: to show what the model cannot do.
export const FAILURES = ["raccoon: What animal is this?", "raccoon: 这是什么动物？"];
