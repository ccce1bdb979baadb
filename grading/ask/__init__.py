"""The tools of a graded test: the submission, random inputs, marks, a scripted language model."""
