"""What a graded test expects: answers by the closeness rule, counts, speed."""
