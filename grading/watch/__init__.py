"""`python -m grading watch`: grades an exercise at every save, from a warm process, and shows what to mend first."""
