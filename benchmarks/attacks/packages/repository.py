"""Hand in a repository with settings of its own

The grader asks git which commit was handed in. A repository's settings name programs that git runs.
"""

import torch

EXERCISE = "week1/self_attention"
TESTS = ["test_any_number_of_dimensions_may_stand_in_front", "test_a_scale_that_is_given_replaces_the_default"]


def scaled_dot_product_attention(
    query, key, value, attn_mask=None, dropout_p=0.0, is_causal=False, scale=None, enable_gqa=False
):
    return torch.zeros(*query.shape[:-1], value.shape[-1], dtype=query.dtype)


def prepare(folder):
    import subprocess

    (folder / "run.sh").write_text("#!/bin/sh\necho result=all > @OTHERS@/output\n")
    (folder / "run.sh").chmod(0o755)
    git = ["git", "-C", str(folder), "-c", "user.name=x", "-c", "user.email=x@localhost"]
    for command in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "x"]):
        subprocess.run([*git, *command], check=True, capture_output=True)
    for name in ("core.fsmonitor", "core.pager", "core.sshCommand", "core.hooksPath", "diff.external"):
        subprocess.run([*git, "config", name, str(folder / "run.sh")], check=True, capture_output=True)
