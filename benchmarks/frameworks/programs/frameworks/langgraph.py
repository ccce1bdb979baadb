from langchain.agents import create_agent
from langchain_openai import ChatOpenAI


def agent(url, model, lookup):
    llm = ChatOpenAI(model=model, base_url=url, api_key="none", max_retries=0)
    program = create_agent(llm, [lookup])

    def ask(question):
        limit = {"recursion_limit": 10}  # a call of the model and the call of its tool are a step each
        return program.invoke({"messages": [("user", question)]}, limit)["messages"][-1].text

    return ask
