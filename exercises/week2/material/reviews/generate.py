"""Makes `train.tsv` and `test.tsv`: film reviews, half of them English, half Korean, each with one clue to its label.

    python -m exercises.week2.material.reviews.generate [FOLDER]

writes to this folder, or to FOLDER, the same files each time. A review has several sentences that say nothing about
the film's quality, one *verdict* anywhere among them, and sometimes what somebody else thought, which does not count.
A verdict is plain ("the film is dull"), negated ("is anything but dull") or a contrast ("the songs are dull, but the
film is charming"), so that no single word gives the label away. The two files have no verdict in common.
"""

from __future__ import annotations

import csv
import sys
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random

HERE = Path(__file__).parent
NEGATIVE, POSITIVE = 0, 1

Row = dict[str, str | int]


@dataclass(frozen=True)
class Split:
    reviews: int
    longest: int  # sentences
    seed: int


SPLITS = {"train": Split(2400, 8, seed=1), "test": Split(400, 85, seed=2)}


@dataclass(frozen=True)
class Language:
    adjectives: tuple[tuple[str, ...], tuple[str, ...]]  # negative ones, positive ones
    films: tuple[str, ...]  # what a verdict is about
    parts: tuple[str, ...]  # what the first half of a contrast is about
    plain: tuple[str, ...]  # frames: {film} {is} …
    negated: tuple[str, ...]
    contrast: tuple[str, ...]
    hearsay: tuple[str, ...]  # {who} {is} …
    others: tuple[str, ...]
    neutral: tuple[str, ...]
    slots: dict[str, tuple[str, ...]]

    def verdict(self, label: int, random: Random) -> str:
        """A sentence with this label."""
        good, bad = (random.choice(self.adjectives[each]) for each in (label, 1 - label))
        film, part = random.choice(self.films), random.choice(self.parts)
        kind = random.choice(("plain", "plain", "negated", "contrast"))
        if kind == "negated":
            good = bad  # the frame reverses it
        return _fill(random.choice(getattr(self, kind)), film=film, part=part, good=good, bad=bad)

    def opinion(self, random: Random) -> str:
        """What somebody else thought."""
        adjective = random.choice(random.choice(self.adjectives))
        return _fill(random.choice(self.hearsay), who=random.choice(self.others), good=adjective)

    def aside(self, random: Random) -> str:
        """A sentence without any opinion."""
        words = {slot: random.choice(choices) for slot, choices in self.slots.items()}
        return _fill(random.choice(self.neutral), **words)


def _fill(frame: str, **words: str) -> str:
    """A frame with its words. A Korean adjective is "past stem|stem before 않다", and a frame says which it takes."""
    for name, word in words.items():
        past, _, plain = word.partition("|")
        frame = frame.replace(f"{{{name}지}}", plain).replace(f"{{{name}}}", past)
    return frame[0].upper() + frame[1:]


ENGLISH = Language(
    adjectives=(
        ("dull", "boring", "awful", "clumsy", "tedious", "stale", "silly", "lifeless"),
        ("wonderful", "brilliant", "moving", "funny", "fresh", "gripping", "charming", "clever"),
    ),
    films=("the film", "the movie", "the story as a whole", "this picture"),
    parts=("the music", "the acting", "the opening", "the camera work", "the dialogue", "the ending"),
    plain=("{film} is {good}.", "I found that {film} is really {good}.", "for me {film} was {good}."),
    negated=("{film} is not {good} at all.", "{film} was anything but {good}.", "I never found {film} {good}."),
    contrast=(
        "{part} is {bad}, but {film} is {good}.",
        "although {part} was {bad}, {film} was {good}.",
        "{film} is {good}, even if {part} is {bad}.",
        "{part} is not {good}, yet {film} is {good}.",
    ),
    hearsay=("{who} called it {good}.", "{who} said before that it was {good}.", "{who} expected something {good}."),
    others=("my brother", "a critic on the radio", "the man beside me", "my neighbour"),
    neutral=(
        "we saw it {when} in {place}.",
        "I went there with {person} {when}.",
        "it runs for about two hours and was shot in {place}.",
        "{person} bought the tickets {when}.",
        "somebody in the first row had {thing}.",
        "the plot begins in {place} and follows {person}.",
        "someone had left {thing} on the seat next to mine.",
        "afterwards {person} asked me about the train to {place}.",
        "the director made a series about {thing} before.",
        "in one scene {person} looks for {thing} in {place}.",
        "it came out {when}, and {place} had a poster of it.",
        "the room was half full, mostly people with {thing}.",
        "it is based on a book about {person} and {thing}.",
        "the second part takes place in {place} {when}.",
    ),
    slots={
        "when": ("on Friday", "last week", "in the evening", "during the holidays", "two years ago", "after work"),
        "place": ("the old town", "a harbour", "the north", "a small cinema", "a library", "the mountains"),
        "person": ("a colleague", "my sister", "a teacher", "two friends", "an uncle", "a young doctor"),
        "thing": ("some letters", "two umbrellas", "a red suitcase", "bicycles", "a map", "three old cameras"),
    },
)
KOREAN = Language(
    adjectives=(
        ("지루했|지루하지", "형편없었|형편없지", "유치했|유치하지", "실망스러웠|실망스럽지",
         "답답했|답답하지", "어설펐|어설프지", "식상했|식상하지", "끔찍했|끔찍하지"),
        ("훌륭했|훌륭하지", "재미있었|재미있지", "감동적이었|감동적이지", "멋졌|멋지지",
         "신선했|신선하지", "아름다웠|아름답지", "완벽했|완벽하지", "즐거웠|즐겁지"),
    ),
    films=("영화는", "작품은", "이야기는 전체적으로", "이 영화는"),
    parts=("음악은", "연기는", "도입부는", "촬영은", "대사는", "결말은"),
    plain=("{film} {good}다.", "{film} 정말 {good}다.", "내게 {film} {good}다."),
    negated=("{film} 전혀 {good지} 않았다.", "{film} 결코 {good지} 않았다.", "내게 {film} {good지} 않았다."),
    contrast=(
        "{part} {bad}지만 {film} {good}다.",
        "비록 {part} {bad}어도 {film} {good}다.",
        "{film} {good}다. 다만 {part} {bad}다.",
        "{part} {good지} 않았지만 {film} {good}다.",
    ),
    hearsay=("{who} {good}다고 했다.", "{who} 보기 전부터 {good}다고 말했다.", "{who} {good}다는 글을 올렸다."),
    others=("동생은", "라디오의 평론가는", "옆자리 사람은", "이웃은"),
    neutral=(
        "{when} {place}에서 보았다.",
        "{when} {person}와 함께 갔다.",
        "상영 시간은 두 시간쯤이고 {place}에서 찍었다.",
        "표는 {when} {person}가 샀다.",
        "맨 앞줄에는 {thing}가 놓여 있었다.",
        "줄거리는 {place}에서 시작해 {person}를 따라간다.",
        "옆자리에 누가 {thing}를 두고 갔다.",
        "끝나고 {person}가 {place} 가는 기차를 물었다.",
        "감독은 예전에 {thing}에 대한 연속극을 만들었다.",
        "한 장면에서 {person}가 {place}에서 {thing}를 찾는다.",
        "{when} 개봉했고 {place}에 포스터가 붙어 있었다.",
        "자리는 반쯤 찼고 {thing}를 가진 사람이 많았다.",
        "{person}와 {thing}에 관한 책이 원작이다.",
        "두 번째 부분은 {when} {place}에서 일어난다.",
    ),
    slots={
        "when": ("금요일에", "지난주에", "저녁에", "휴가 때", "이 년 전에", "퇴근하고"),
        "place": ("구시가지", "항구", "북쪽 지방", "작은 극장", "도서관 거리", "산속 마을"),
        "person": ("동료", "누나", "학교 교사", "친구", "젊은 의사", "아주머니"),
        "thing": ("편지", "우산 두 개", "빨간 가방 하나", "자전거", "지도", "낡은 카메라"),
    },
)  # fmt: skip
LANGUAGES = {"en": ENGLISH, "ko": KOREAN}


def reviews(split: str) -> Iterator[Row]:
    """The reviews of "train" or "test", {"language", "label", "text"}; languages and labels alternate, texts differ."""
    size, random, seen = SPLITS[split], Random(SPLITS[split].seed), set()
    number = 0
    while number < size.reviews:
        language, label = ("en", "ko")[number % 2], number // 2 % 2
        text = _review(LANGUAGES[language], label, split, random)
        if text not in seen:
            seen.add(text)
            number += 1
            yield {"language": language, "label": label, "text": text}


def _review(language: Language, label: int, split: str, random: Random) -> str:
    """Few sentences are as likely as many: the logarithm of the number is uniform."""
    number = round(2 * (SPLITS[split].longest / 2) ** random.random())
    sentences = [language.aside(random) for _ in range(number - 1)]
    if random.random() < 1 / 4:
        sentences[random.randrange(number - 1)] = language.opinion(random)
    verdict = language.verdict(label, random)
    while (zlib.crc32(verdict.encode()) % 5 == 0) != (split == "test"):
        verdict = language.verdict(label, random)
    sentences.insert(random.randrange(number), verdict)
    return " ".join(sentences)


def main(folder: Path = HERE) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for split in SPLITS:
        with (folder / f"{split}.tsv").open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, ["language", "label", "text"], delimiter="\t", lineterminator="\n",
                                    quoting=csv.QUOTE_NONE)  # fmt: skip
            writer.writeheader()
            writer.writerows(reviews(split))


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
