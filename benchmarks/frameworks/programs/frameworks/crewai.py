from crewai import LLM, Agent
from crewai.tools import tool


def agent(url, model, lookup):
    llm = LLM(model=model, provider="openai", base_url=url, api_key="none", max_retries=0)
    program = Agent(
        role="Assistant",
        goal="Answer questions",
        backstory="You look up what you do not know.",
        llm=llm,
        tools=[tool(lookup)],
        max_iter=5,
    )

    def ask(question):
        return program.kickoff(question).raw

    return ask
