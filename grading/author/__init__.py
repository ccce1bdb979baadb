"""The tools of authors: check an exercise, write stubs, grade libraries."""
