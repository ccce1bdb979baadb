"""The bank of known mistakes, and the recogniser that names them to students."""
