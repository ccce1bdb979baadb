import asyncio

from llama_index.core.agent.workflow import FunctionAgent
from llama_index.llms.openai_like import OpenAILike


def agent(url, model, lookup):
    llm = OpenAILike(
        model=model,
        api_base=url,
        api_key="none",
        is_chat_model=True,
        is_function_calling_model=True,
        max_retries=0,
        context_window=8000,
    )
    program = FunctionAgent(llm=llm, tools=[lookup])

    async def run(question):
        return str(await program.run(question, max_iterations=5))

    return lambda question: asyncio.run(run(question))
