"""What a graded test is written with: the submission, drawn inputs, marks, a scripted language model."""
