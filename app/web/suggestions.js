// What may be asked about the examples: made by python -m docs.make_suggestions, on the model's weights.

export const SUGGESTIONS = {
  "cat": [
    "What animal is this?",
    "What color is the cat?",
    "Is there a car?"
  ],
  "coffee": [
    "Is there a cup?",
    "What drink is this?",
    "What color is the saucer?",
    "Is there a dog?"
  ],
  "rocket": [
    "What color is the sky?",
    "Are the lights on?",
    "Is there a cat?"
  ],
  "astronaut": [
    "What color is the jacket?",
    "Is there a dog?",
    "How many people are there?"
  ],
  "camera": [
    "Is there a person?",
    "What color is his coat?",
    "Is there a cat?"
  ],
  "raccoon": [
    "What animal is this?",
    "What color are the leaves?",
    "Is there an animal?",
    "Is there a car?"
  ]
};

// In Chinese; none where the model does not read it.
export const SUGGESTIONS_ZH = {
  "cat": [
    "这是什么动物？",
    "照片里有汽车吗？",
    "猫的眼睛睁着吗？"
  ],
  "coffee": [
    "杯子里是什么？",
    "有狗吗？",
    "有几个杯子？"
  ],
  "rocket": [
    "有猫吗？",
    "天空是什么颜色？",
    "照片里有汽车吗？"
  ],
  "astronaut": [
    "有狗吗？",
    "有几个人？",
    "有船吗？"
  ],
  "camera": [
    "有猫吗？",
    "他的外套是什么颜色？",
    "有几个人？"
  ],
  "raccoon": [
    "这是什么动物？",
    "照片里有汽车吗？",
    "叶子是什么颜色？"
  ]
};

// Suggested though the answer is wrong: to show what the model cannot do.
export const FAILURES = ["raccoon: What animal is this?", "raccoon: 这是什么动物？"];
