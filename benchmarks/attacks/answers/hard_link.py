"""Give the solution a second name

A hard link in one's own folder is the same file, and its real path is innocent.
"""

import os
import tempfile

EXERCISE = "week1/self_attention"
TESTS = ["test_lengths_and_widths_may_differ", "test_true_in_a_boolean_mask_means_take_part"]

link = os.path.join("@COURSE@", "whetstone_attack_link.py")
os.link("@COURSE@/solutions/week1/self_attention.py", link)
try:
    exec(open(link, encoding="utf-8").read())
finally:
    os.unlink(link)
