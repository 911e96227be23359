"""The same small chat server three times, each as a competent user of its libraries would write it first.

They are measured beside Tertulia by `make bench`, are handed the upstream by `OPENAI_BASE_URL` and `OPENAI_API_KEY` and
their port as first argument, listen on loopback, and know nothing of Tertulia or of each other. None is tuned, for or
against: what the documentation of a library shows is what is used.
"""
