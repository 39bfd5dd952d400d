"""Kinds and forms of questions, told by their wording alone: what a score is worth differs from one to the next."""

from __future__ import annotations

import re

from model.interface import QuestionForm, QuestionKind

QUESTION_KINDS: tuple[QuestionKind, ...] = ("yes/no", "count", "colour", "reading", "other")

PATTERNS: tuple[tuple[QuestionKind, str], ...] = (
    # "Is it red or blue?" asks for one of two, "Can you tell me what it is?" for what it is. A question word behind a
    # thing tells of it: "Do you see the man who runs?"
    (
        "yes/no",
        r"^(?!.* or )(?!(?:can|could|do|would) you (?:(?:from|in|on) the \S+ |"
        r"(?!(?:an?|the|any|some|if|whether) )\S+ )*(?:what|which|who|where|how|when|why)\b)"
        r"(?:is|are|was|were|does|do|did|can|could|has|have|had|will|would|should|am|isn't|aren't|doesn't|don't)\b",
    ),
    ("count", r"\bhow many\b|\bnumber of\b|^count\b"),
    ("colour", r"\b(?:what|which) colou?rs?\b|\bcolou?r (?:is|are)\b|\bwhat is the colou?r\b"),
    (
        "reading",
        r"\bsays?\b|\bwritten\b|\bspell|\b(?:what|which) (?:word|words|letter|letters|text)\b|\bwhat number\b|"
        r"\bwhat time\b|\bwhat (?:brand|street|company|airline|team)\b|\bname (?:of|on)\b|"
        r"\blicen[cs]e plate\b|\blogo\b|\bread(?:s)?\b",
    ),
    # The same in Chinese; 还是 is "or". With a question word, 吗 and 能不能 are "can you tell me"; 几乎 is "almost".
    ("yes/no", "^(?!.*还是)(?:.*(?:有没有|是不是|是否|会不会)|(?!.*(?:什么|几(?!乎)|多少|谁|哪)).*(?:吗|能不能))"),
    ("count", "几(?!点|岁|号|路)|多少(?!钱|岁|号|路)|数量"),
    ("colour", "(?:什么|哪种|何种|哪些)颜色|颜色(?:是什么|有哪些)"),
    (
        "reading",
        "写(?:着|了|的)|什么字|哪些字|什么单词|几点|几号|什么数字|数字是什么|什么(?:牌子|品牌|街|路)|车牌|"
        "(?:叫|是)什么名字|号码|(?:标志|牌子)上是|什么时间|哪[家个]公司|标识",
    ),
)
"""The first that is found in a question, in lower case and with single blanks, tells its kind. The page has them from
here, so they are written in what Python and JavaScript have in common."""

_THINGS = (
    "person|people|bicycles?|cars?|motorcycles?|airplanes?|bus(?:es)?|trains?|trucks?|boats?|traffic lights?|"
    "fire hydrants?|stop signs?|parking meters?|bench(?:es)?|birds?|cats?|dogs?|horses?|sheep|cows?|elephants?|"
    "bears?|zebras?|giraffes?|backpacks?|umbrellas?|handbags?|ties?|suitcases?|frisbees?|skis|snowboards?|"
    "sports balls?|kites?|baseball bats?|baseball gloves?|skateboards?|surfboards?|tennis rackets?|bottles?|"
    "wine glass(?:es)?|cups?|forks?|knife|knives|spoons?|bowls?|bananas?|apples?|sandwich(?:es)?|oranges?|broccoli|"
    "carrots?|hot dogs?|pizzas?|donuts?|cakes?|chairs?|couch(?:es)?|potted plants?|beds?|dining tables?|toilets?|"
    "tvs?|laptops?|mouse|mice|remotes?|keyboards?|cell phones?|microwaves?|ovens?|toasters?|sinks?|"
    "refrigerators?|books?|clocks?|vases?|scissors|teddy bears?|hair driers?|toothbrush(?:es)?"
)
_CHINESE_THINGS = (
    "人|自行车|汽车|摩托车|飞机|公交车|火车|卡车|船|红绿灯|消防栓|停车标志|停车计时器|长椅|鸟|"
    "猫|狗|马|绵羊|牛|大象|熊|斑马|长颈鹿|背包|雨伞|手提包|领带|行李箱|飞盘|滑雪板|"
    "单板滑雪板|球|风筝|棒球棒|棒球手套|滑板|冲浪板|网球拍|瓶子|酒杯|杯子|叉子|刀|勺子|碗|"
    "香蕉|苹果|三明治|橙子|西兰花|胡萝卜|热狗|披萨|甜甜圈|蛋糕|椅子|沙发|盆栽|床|餐桌|马桶|"
    "电视|笔记本电脑|鼠标|遥控器|键盘|手机|微波炉|烤箱|烤面包机|水槽|冰箱|书|时钟|花瓶|剪刀|"
    "泰迪熊|吹风机|牙刷"
)

FORMS: tuple[tuple[QuestionForm, QuestionKind, str], ...] = (
    (
        "is there",
        "yes/no",
        rf"^(?:(?:is|are) there|(?:do|can|could) you see) (?:an? |any |some )?(?:{_THINGS})"
        r"(?: here| (?:in|on) (?:the|this) (?:photo|photograph|picture|image))?[ .?!]*$",
    ),
    (
        "is there",
        "yes/no",
        "^(?:这里|这?[张幅]?(?:图|照|相|画)[片面]?(?:里面|里|中|上)?)?"
        "(?:有没有|是否有|有|你?(?:能不能|能|可以)?(?:看到|看见|看得到))"
        f"(?:任何|一?[个只条辆张把台部架艘匹头本瓶件顶块根双])?(?:{_CHINESE_THINGS})吗?[ .?!。？！]*$",
    ),
)
"""Wordings whose answers are worth another share than all of their kind: whether there is one of the 80 classes of
things of COCO (Lin et al. 2014), without a word of which one or where. Of these a photograph's boxes tell the truth,
and a detector knows them; a church is asked about in the same words, but seen by nothing that was measured so."""

_COMPILED = tuple((kind, re.compile(pattern)) for kind, pattern in PATTERNS)
_COMPILED_FORMS = tuple((form, kind, re.compile(pattern)) for form, kind, pattern in FORMS)


def question_kind(text: str) -> QuestionKind:
    """The kind of a question: ``other`` where no pattern is found in it."""
    text = _plain(text)
    return next((kind for kind, pattern in _COMPILED if pattern.search(text)), "other")


def question_form(text: str) -> QuestionForm | None:
    """The form of a question within its kind; None where it has none of `FORMS`."""
    kind, text = question_kind(text), _plain(text)
    return next((form for form, own, pattern in _COMPILED_FORMS if own == kind and pattern.search(text)), None)


def _plain(text: str) -> str:
    return " ".join(text.lower().split())
