"""How answers are judged: by the closeness rule, by counts, by speed."""
