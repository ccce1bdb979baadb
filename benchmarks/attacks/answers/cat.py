"""Let another program read the solution

What watches Python's own `open` does not see what `cat` opens.
"""

import subprocess

EXERCISE = "week1/self_attention"
TESTS = ["test_any_number_of_dimensions_may_stand_in_front", "test_true_in_a_boolean_mask_means_take_part"]

exec(subprocess.run(["cat", "@COURSE@/solutions/week1/self_attention.py"], capture_output=True, text=True).stdout)
