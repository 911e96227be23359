"""How long tests wait for what comes by itself: machines that run tests stall for seconds, of which no test tells."""

PATIENCE_SECONDS = 100.0
"""Less than pytest's own limit, so that a test which waits in vain says for what."""
