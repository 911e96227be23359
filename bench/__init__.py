"""What a streamed token costs here and in other servers, measured side by side: `make bench`.

The server under test is pinned to one core; the endpoint, the clients and PostgreSQL share the others. Nothing here is
a test: a test never asserts a time, and a figure means something only beside another of the same run.
"""
