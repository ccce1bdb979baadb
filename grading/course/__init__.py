"""The one place that knows the folders and files of a course."""
