import dspy


def agent(url, model, lookup):
    dspy.configure_cache(enable_disk_cache=False, enable_memory_cache=False)
    llm = dspy.LM(f"openai/{model}", api_base=url, api_key="none", cache=False, num_retries=0)
    program = dspy.ReAct("question -> answer", [lookup], max_iters=5)

    def ask(question):
        with dspy.context(lm=llm):
            return program(question=question).answer

    return ask
