"""What crosses processes: plain data, requests, results, records."""
