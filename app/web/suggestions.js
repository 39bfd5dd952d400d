// What may be asked about the examples: made by python -m docs.make_suggestions, on the model's weights.

export const SUGGESTIONS = {
  "cat": [
    "What animal is this?",
    "What color is the cat?",
    "Is it a cat or a dog?"
  ],
  "coffee": [
    "What is in the cup?",
    "Is there a cup?",
    "Is there a dog?",
    "What drink is this?"
  ],
  "rocket": [
    "What color is the sky?",
    "Is there a cat?",
    "Is there a car?",
    "Are the lights on?"
  ],
  "astronaut": [
    "What color is her suit?",
    "What color is the suit?",
    "What color is the jacket?",
    "Is there a dog?"
  ],
  "camera": [
    "Is there a person?",
    "What color is his coat?",
    "Is there a cat?",
    "How many people are there?"
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
    "猫的眼睛睁着吗？",
    "这只猫是什么颜色？"
  ],
  "coffee": [
    "杯子里是什么？",
    "有狗吗？",
    "这是什么饮料？",
    "有几个杯子？"
  ],
  "rocket": [
    "天空是什么颜色？",
    "有猫吗？",
    "照片里有汽车吗？"
  ],
  "astronaut": [
    "有狗吗？",
    "有几个人？"
  ],
  "camera": [
    "他的外套是什么颜色？",
    "有猫吗？",
    "有几个人？"
  ],
  "raccoon": [
    "这是什么动物？",
    "叶子是什么颜色？",
    "它的眼睛睁着吗？",
    "照片里有汽车吗？"
  ]
};

// Suggested though the answer is wrong: to show what the model cannot do.
export const FAILURES = ["raccoon: What animal is this?", "raccoon: 这是什么动物？"];
