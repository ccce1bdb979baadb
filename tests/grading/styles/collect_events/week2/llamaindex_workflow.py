"""Events sent and collected by hand, the framework's retry policies, BM25, and streamed replies."""

from __future__ import annotations

import contextlib
import json
import math
import unicodedata
from collections import Counter

from llama_index.core.workflow import (
    Context,
    Event,
    HumanResponseEvent,
    InputRequiredEvent,
    StartEvent,
    StopEvent,
    Workflow,
    step,
)
from llama_index.llms.openai_like import OpenAILike
from workflows.retry_policy import retry_policy, stop_never, wait_fixed


def connect(url, model, api_key="none"):
    return OpenAILike(model=model, api_base=url, api_key=api_key, is_chat_model=True, max_retries=0, temperature=0.0)


async def stream(llm, prompt):
    reply = ""
    async for piece in await llm.astream_complete(prompt):
        reply = piece.text
    return reply


# The step says whether this was the last attempt, for the policy knows nothing of the workflow.
AGAIN = retry_policy(retry=lambda error: not error.last, wait=wait_fixed(0.05), stop=stop_never())


class Part(Event):
    place: int
    text: str


class Answered(Event):
    place: int
    text: str
    source: str


class Complete(Event):
    facts: list


class ResearchWorkflow(Workflow):
    def __init__(self, llm, documents, timeout=30, max_retries=2):
        if not documents or max_retries < 0:
            raise ValueError(f"documents={documents!r}, max_retries={max_retries!r}")
        super().__init__(timeout=timeout)
        self.llm, self.documents, self.max_retries = llm, tuple(documents), max_retries
        self.counts = [Counter(words(document)) for document in documents]

    async def ask(self, ctx, prompt, read=str):
        try:
            return read(await stream(self.llm, prompt))
        except Exception as error:
            error.last = ctx.retry_info().retry_number >= self.max_retries
            raise

    @step(retry_policy=AGAIN)
    async def split(self, ctx: Context, event: StartEvent) -> Part | Complete | None:
        def read(reply):
            with contextlib.suppress(json.JSONDecodeError):
                parts = json.loads(reply)
                if isinstance(parts, list) and all(isinstance(part, str) for part in parts):
                    return parts
            raise ValueError(f"no list: {reply}")

        parts = await self.ask(ctx, f"List as JSON what must be known for: {event.question}", read)
        await ctx.store.set("question", event.question)
        await ctx.store.set("number", len(parts))
        if not parts:
            return Complete(facts=[])
        for place, text in enumerate(parts):
            ctx.send_event(Part(place=place, text=text))
        return None

    @step(num_workers=500, retry_policy=AGAIN)
    async def answer(self, ctx: Context, event: Part) -> Answered:
        source = self.documents[self.best(event.text)]
        text = await self.ask(ctx, f"<text>{source}</text>\n{event.text}")
        return Answered(place=event.place, text=text, source=source)

    @step
    async def collect(self, ctx: Context, event: Answered) -> Complete | None:
        found = ctx.collect_events(event, [Answered] * await ctx.store.get("number"))
        return Complete(facts=sorted(found, key=lambda each: each.place)) if found else None

    @step(retry_policy=AGAIN)
    async def conclude(self, ctx: Context, event: Complete) -> StopEvent:
        facts = " ".join(each.text for each in event.facts)
        answer = await self.ask(ctx, f"{await ctx.store.get('question')}\nUse: {facts}")
        return StopEvent(result={"answer": answer, "sources": [each.source for each in event.facts]})

    def best(self, query, k=1.5, b=0.75):
        average = sum(map(Counter.total, self.counts)) / len(self.counts)

        def score(place):
            counts = self.counts[place]
            norm = k * (1 - b + b * counts.total() / max(average, 1))
            return sum(self.rarity(word) * counts[word] * (k + 1) / (counts[word] + norm) for word in words(query))

        return max(range(len(self.counts)), key=score)

    def rarity(self, word):
        holders = sum(word in counts for counts in self.counts)
        return math.log(1 + (len(self.counts) - holders + 0.5) / (holders + 0.5))


def words(text):
    return "".join(c if unicodedata.category(c)[0] in "LN" else " " for c in text).lower().split()


class ReviewWorkflow(Workflow):
    def __init__(self, llm, timeout=30):
        super().__init__(timeout=timeout)
        self.llm = llm

    @step
    async def draft(self, event: StartEvent) -> Part:
        return Part(place=0, text=await stream(self.llm, f"Please: {event.request}"))

    @step
    async def decide(self, ctx: Context, event: Part) -> StopEvent:
        """This step runs again when the person has answered, but the draft is in its event."""
        said = await ctx.wait_for_event(HumanResponseEvent, waiter_event=InputRequiredEvent(prefix=event.text))
        if said.response.strip().lower() in {"yes", "ok", "approve"}:
            return StopEvent(result=event.text)
        prompt = f"You wrote: {event.text}\nThe reader says: {said.response}\nWrite it again."
        return StopEvent(result=await stream(self.llm, prompt))
