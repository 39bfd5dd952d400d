"""English questions about images into Chinese, by forms and words that were translated by hand.

No general translator: a question is translated where one of the forms fits it and all words in the form's slots are
known. That is so for about half of the questions that people ask about photographs.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

FOLDER = Path(__file__).parent

_IRREGULAR = {
    "men": "man", "women": "woman", "children": "child", "knives": "knife", "scarves": "scarf", "loaves": "loaf",
    "geese": "goose", "mice": "mouse", "buses": "bus", "dishes": "dish", "benches": "bench", "glasses": "glasses",
    "policemen": "policeman", "oxen": "ox", "calves": "calf", "halves": "half", "wolves": "wolf", "skies": "sky",
}  # fmt: skip
_DETERMINERS = {
    "the": "", "a": "", "an": "", "some": "一些", "any": "", "this": "这个", "that": "那个", "these": "这些",
    "those": "那些", "his": "他的", "her": "她的", "their": "他们的", "its": "它的", "your": "你的", "my": "我的",
    "all": "所有的", "both": "两个", "each": "每个", "every": "每个", "another": "另一个", "one": "一个",
    "two": "两个", "three": "三个", "four": "四个", "five": "五个", "all the": "所有的", "other": "其他的",
}  # fmt: skip
_PRONOUNS = {
    "he": "他", "she": "她", "it": "它", "they": "他们", "them": "他们", "you": "你", "him": "他", "this": "这",
    "that": "那", "these": "这些", "those": "那些", "anyone": "有人", "someone": "有人", "everyone": "所有人",
    "we": "我们", "nobody": "没有人",
}  # fmt: skip
_PLACES = {
    "in the air": "空中", "in the picture": "图片里", "in the photo": "照片里", "in the image": "图像里",
    "in this picture": "这张图片里", "in this photo": "这张照片里", "in this image": "这张图像里",
    "in the background": "背景里", "in the foreground": "前景里", "on the left": "左边", "on the right": "右边",
    "on the left side": "左侧", "on the right side": "右侧", "on top": "上面", "on the top": "上面",
    "on the bottom": "底部",
    "at the top": "顶部", "at the bottom": "底部", "in the middle": "中间", "in the center": "中间", "in front": "前面",
    "in the back": "后面", "in back": "后面", "in the front": "前面", "on the ground": "地上", "on the floor": "地板上",
    "outside": "外面", "inside": "里面", "here": "这里", "there": "那里", "in the distance": "远处",
    "outdoors": "户外",
    "indoors": "室内", "in the scene": "场景里", "in the corner": "角落里", "on the side": "旁边",
    "to the left": "左边",
    "to the right": "右边", "on the wall": "墙上", "in the sky": "天上", "at home": "家里", "in the water": "水里",
}  # fmt: skip
_MEASURES = {  # a cat is counted as 一只猫, not 一个猫
    "只": "猫 小猫 狗 小狗 鸟 鸭子 鹅 鸡 鸽子 海鸥 鹦鹉 天鹅 猫头鹰 羊 绵羊 山羊 长颈鹿 熊 北极熊 泰迪熊 鹿 狮子 "
    "老虎 猴子 兔子 蝴蝶 蜜蜂 动物 手 脚 耳朵 眼睛 鞋 鞋子 靴子 袜子 手套 斑马 船",
    "头": "牛 奶牛 公牛 小牛 猪 大象",
    "匹": "马 小马 斑马",
    "位": "女士 先生 老师 厨师 乘客 游客 球员 选手 警察",
    "名": "男子 女子 男人 女人 球员 选手 警察 冲浪者 滑雪者 滑板手",
    "辆": "汽车 车 卡车 公交车 巴士 面包车 出租车 自行车 摩托车 消防车 警车 拖拉机 校车 手推车",
    "列": "火车 列车",
    "架": "飞机 直升机 喷气式飞机",
    "艘": "船 轮船 帆船",
    "张": "桌子 床 椅子 照片 图片 沙发 餐桌 画 长椅 书桌 纸 脸 嘴",
    "把": "椅子 雨伞 伞 刀 叉子 勺子 剪刀 长椅 牙刷 吉他",
    "条": "裤子 裙子 连衣裙 短裤 牛仔裤 领带 围巾 街道 路 河 鱼 狗 毛巾 腿 尾巴 腰带 毯子",
    "件": "衬衫 上衣 夹克 外套 毛衣 T恤 衣服 西装 大衣 家具",
    "顶": "帽子 头盔",
    "本": "书 杂志",
    "台": "电脑 笔记本电脑 电视 冰箱 微波炉 相机 炉子 烤箱",
    "块": "滑板 披萨 蛋糕 牌子 石头 手表 地毯 冲浪板",
    "棵": "树 棕榈树",
    "朵": "花 玫瑰 云",
    "杯": "水 咖啡 茶 果汁 牛奶 啤酒",
    "座": "建筑物 楼 塔 桥 山 教堂 雕像",
    "间": "房间 厨房 浴室 卧室 办公室",
    "盏": "灯 台灯",
    "面": "镜子 旗 旗子 墙",
    "根": "香蕉 胡萝卜 杆子 热狗",
    "扇": "窗户 门",
}  # fmt: skip
_LONGEST_SLOT = 7  # words
_TWICE = re.compile("正?在((?:站|坐|躺|靠|走)在|[拿穿戴骑指坐站躺跪蹲停挂盖看靠]着)")  # nobody "is at sitting on"
_CHINESE_END = re.compile(r"^(?:上|里|中)")


@dataclass(frozen=True, slots=True)
class Form:
    """An English wording, its words and slots in order, and its Chinese wordings."""

    english: tuple[str, ...]
    chinese: tuple[str, ...]
    literals: frozenset[str]
    """The words that a question of this form has."""


@dataclass
class Translator:
    """Translates questions. ``rng`` chooses among the Chinese words and wordings."""

    rng: random.Random = field(default_factory=lambda: random.Random(0))  # noqa: S311
    folder: Path = FOLDER
    _matched: dict[str, tuple[Form, dict[str, list[str]]] | None] = field(default_factory=dict, init=False)

    @cached_property
    def words(self) -> dict[str, dict[str, list[str]]]:
        """By section of ``words.txt``: English word -> Chinese words."""
        sections: dict[str, dict[str, list[str]]] = {}
        section: dict[str, list[str]] = {}
        for line in (self.folder / "words.txt").read_text("utf-8").splitlines():
            if line.startswith("["):
                section = sections.setdefault(line.strip("[]"), {})
            elif not line.startswith("#"):
                for entry in line.split():
                    english, _, chinese = entry.partition("=")
                    section[english.replace("_", " ")] = chinese.split("/")
        return sections

    @cached_property
    def forms(self) -> list[Form]:
        """All forms, those with the most words first."""
        found = []
        for line in (self.folder / "forms.txt").read_text("utf-8").splitlines():
            if "=" in line and not line.startswith("#"):
                english, _, chinese = line.partition("=")
                words = tuple(english.split())
                literals = frozenset(word for word in words if not word.startswith("{"))
                found.append(Form(words, tuple(chinese.split("/")), literals))
        return sorted(found, key=lambda form: (-len(form.literals), len(form.english)))

    @cached_property
    def _by_first(self) -> dict[str, list[Form]]:
        found: dict[str, list[Form]] = {}
        for form in self.forms:
            found.setdefault(form.english[0], []).append(form)
        return found

    def translate(self, question: str) -> str | None:
        """The question in Chinese; None where no form fits or a word is unknown."""
        found = self.match(question)
        if found is None:
            return None
        form, slots = found
        return self.fill(form, {name: self.slot(name, words) or "" for name, words in slots.items()})

    def match(self, question: str) -> tuple[Form, dict[str, list[str]]] | None:
        """The form that a question is of, and the words in its slots; all of them have Chinese."""
        if question not in self._matched:
            self._matched[question] = self._match(question)
        return self._matched[question]

    def _match(self, question: str) -> tuple[Form, dict[str, list[str]]] | None:
        words = re.findall(r"[a-z0-9'-]+", question.lower().replace("what's", "what is").replace("where's", "where is"))
        said = set(words)
        for form in self._by_first[words[0]] if words and words[0] in self._by_first else ():
            if form.literals <= said:
                for slots in _matches(form.english, words):
                    if all(self.slot(name, part) for name, part in slots.items()):
                        return form, slots
        return None

    def fill(self, form: Form, slots: dict[str, str]) -> str:
        """One of the form's Chinese wordings, with the slots' Chinese."""
        text = self.rng.choice(form.chinese)
        for name, chinese in slots.items():
            text = text.replace(f"{{{name}}}", chinese)
        text = text.replace("的的", "的").replace("这个这", "这").replace("这些这", "这")
        return self.measured(_TWICE.sub(r"\1", text))

    @cached_property
    def _measured(self) -> tuple[dict[str, list[str]], re.Pattern[str]]:
        found: dict[str, list[str]] = {}
        for measure, nouns in _MEASURES.items():
            for noun in nouns.split():
                found.setdefault(noun, []).append(measure)
        names = "|".join(sorted(found, key=len, reverse=True))
        return found, re.compile(f"(?<=[几这那两三四五一哪])个((?:[^个的]{{1,4}}的)?)({names})")

    def measured(self, text: str) -> str:
        """The text with the measure word of each noun in place of the general one, mostly."""
        measures, pattern = self._measured

        def change(found: re.Match[str]) -> str:
            return (self.rng.choice(measures[found[2]]) if self.rng.random() < 0.7 else "个") + found[1] + found[2]

        return pattern.sub(change, text)

    def slot(self, name: str, words: Sequence[str]) -> str | None:
        """The Chinese of what stands in a slot."""
        if name.startswith("a"):
            return self._one("adjective", " ".join(words))
        if name.startswith("v"):
            return self.doing(words)
        return self.place(words) if name == "p" else self.thing(words)

    def thing(self, words: Sequence[str]) -> str | None:
        """A thing with what describes it: "the man's red shirt", "the man in the chair", "the dog eating grass"."""
        if not words:
            return None
        text = " ".join(words)
        if text in _PRONOUNS:
            return _PRONOUNS[text]
        for at in range(1, len(words) - 1):  # "the cup on the table", "the top of the tree", "the man holding a kite"
            head = words[:at]
            if words[at] == "of":
                whole, part = self.thing(words[at + 1 :]), self.thing(head)
                return whole + "的" + part if whole and part else None
            behind = self.place(words[at:]) if " ".join(words[at : at + 1]) not in ("a", "the") else None
            behind = behind or (self.doing(words[at:]) if words[at].endswith("ing") else None)
            if behind:
                owner = self.thing(head)
                return f"{behind}的{owner}" if owner else None
        return self._plain(words)

    def _plain(self, words: Sequence[str]) -> str | None:
        if words[0] in _DETERMINERS and len(words) > 1:
            rest = self._plain(words[1:])
            return None if rest is None else _DETERMINERS[words[0]] + rest
        for at in range(len(words) - 1):
            owner = words[at]
            if owner.endswith(("'s", "s'")):
                whole = self._plain([*words[:at], owner.removesuffix("'s").removesuffix("'")])
                part = self._plain(words[at + 1 :])
                return f"{whole}的{part}" if whole and part else None
        whole = self._one("noun", " ".join(words))
        if whole:
            return whole
        for length in range(len(words) - 1, 0, -1):
            first = " ".join(words[:length])
            before = self._one("adjective", first) or self._one("noun", first)
            rest = self._plain(words[length:]) if before else None
            if before and rest:
                return before + rest
        return None

    def place(self, words: Sequence[str]) -> str | None:
        """A place: "on the table", "next to the man"."""
        text = " ".join(words)
        if text in _PLACES:
            return _PLACES[text]
        for length in range(min(5, len(words) - 1), 0, -1):
            where = self._one("place", " ".join(words[:length]))
            if where:
                thing = self.thing(words[length:])
                if thing is None:
                    return None
                return (
                    thing if _CHINESE_END.match(where) and thing.endswith(("边", "上", "里", "处")) else thing + where
                )
        return None

    def doing(self, words: Sequence[str]) -> str | None:
        """What somebody does: "riding", "riding a horse", "standing on the table"."""
        for length in range(len(words), 0, -1):
            verb = self._one("verb", " ".join(words[:length]))
            if verb is None:
                continue
            rest = words[length:]
            if not rest:
                return verb
            thing = self.thing(rest)
            if thing:
                return verb + thing
            place = self.place(rest)
            if place:
                return f"在{place}{verb}"
        return None

    def _one(self, section: str, english: str) -> str | None:
        found = self.words[section].get(english)
        if found is None and section == "noun":
            found = next((self.words[section][one] for one in singulars(english) if one in self.words[section]), None)
        return None if found is None else self.rng.choice(found)


def singulars(english: str) -> list[str]:
    """What a word may be the plural of."""
    before, _, last = english.rpartition(" ")
    ends = [_IRREGULAR[last]] if last in _IRREGULAR else []
    if last.endswith("ies"):
        ends.append(last[:-3] + "y")
    if last.endswith("es"):
        ends.append(last[:-2])
    if last.endswith("s"):
        ends.append(last[:-1])
    return [f"{before} {end}".strip() for end in ends]


def plural(english: str) -> str:
    """The plural of a noun, as questions write it."""
    before, _, last = english.rpartition(" ")
    irregular = next((many for many, one in _IRREGULAR.items() if one == last), None)
    if irregular is None:
        if last.endswith(("s", "sh", "ch", "x")):
            irregular = last if last.endswith(("s",)) else last + "es"
        else:
            irregular = last[:-1] + "ies" if last.endswith("y") and last[-2:-1] not in "aeiou" else last + "s"
    return f"{before} {irregular}".strip()


def _matches(form: Sequence[str], words: Sequence[str]) -> Iterator[dict[str, list[str]]]:
    """All ways in which the words are of the form: slot -> its words."""
    if not form:
        if not words:
            yield {}
        return
    first = form[0]
    if not first.startswith("{"):
        if words and words[0] == first:
            yield from _matches(form[1:], words[1:])
        return
    for length in range(1, min(_LONGEST_SLOT, len(words)) + 1):
        for rest in _matches(form[1:], words[length:]):
            yield {first.strip("{}"): list(words[:length]), **rest}
