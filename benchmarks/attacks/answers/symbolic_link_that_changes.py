"""Change a symbolic link between the look and the opening

The hook resolves the path, then Python opens it. In between, a thread lets the link point elsewhere.
"""

import os
import threading

EXERCISE = "week1/self_attention"
TESTS = ["test_lengths_and_widths_may_differ"]

open("innocent", "w").close()
done = False


def flip():
    while not done:
        for target in ("innocent", "@COURSE@/solutions/week1/self_attention.py"):
            os.symlink(target, "next")
            os.replace("next", "link")


threading.Thread(target=flip, daemon=True).start()
text = ""
for _ in range(20000):
    try:
        text = open("link", encoding="utf-8").read()
    except OSError:
        continue
    if "def scaled_dot_product_attention" in text:
        break
done = True
exec(text)
