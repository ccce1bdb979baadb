from haystack.components.agents import Agent
from haystack.components.generators.chat import OpenAIChatGenerator
from haystack.dataclasses import ChatMessage
from haystack.tools import create_tool_from_function
from haystack.utils import Secret


def agent(url, model, lookup):
    key = Secret.from_token("none")
    llm = OpenAIChatGenerator(api_key=key, api_base_url=url, model=model, max_retries=0)
    program = Agent(chat_generator=llm, tools=[create_tool_from_function(lookup)], max_agent_steps=5)

    def ask(question):
        return program.run([ChatMessage.from_user(question)])["last_message"].text

    return ask
