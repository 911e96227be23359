"""The process in which the demo model runs: an OpenAI-compatible endpoint on loopback, started by `local.py`.

Prints one line of JSON, `{"port": ...}` when it is ready or `{"error": ...}`, and ends as soon as its standard input
does, so that it never outlives its parent. Imports nothing of this project: it is run as a file of its own.
"""

import argparse
import json
import os
import sys
import threading
from typing import Any
from urllib.parse import urlsplit

SLOTS = 4
"""Replies written at the same time; each has the whole of `--context` for itself."""


def main() -> None:
    arguments = _parser().parse_args()
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        server = _serve(arguments)
        _announce(port=urlsplit(server.listening_address).port)
    except Exception as error:
        _announce(error=str(error) or type(error).__name__)
        os._exit(1)
    threading.Event().wait()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("weights", help="the GGUF file")
    parser.add_argument("--port", type=int, default=0, help="0: any free port")
    parser.add_argument("--model", default="local", help="the name under which the model is offered")
    parser.add_argument("--context", type=int, default=4096, help="tokens of prompt and answer together")
    parser.add_argument("--max-tokens", type=int, default=1024, help="of an answer, unless the request says less")
    return parser


def _end_with_parent() -> None:
    while sys.stdin.buffer.read(4096):
        pass
    os._exit(0)


def _serve(arguments: argparse.Namespace) -> Any:  # noqa: ANN401
    import xllamacpp  # type: ignore[import-untyped,import-not-found,unused-ignore]

    params = xllamacpp.CommonParams()
    params.model.path = arguments.weights
    params.model_alias = {arguments.model}
    params.hostnames = ["127.0.0.1"]
    params.port = arguments.port
    params.n_parallel = SLOTS
    params.n_ctx = SLOTS * arguments.context
    params.n_predict = arguments.max_tokens
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = max(1, _cpus() - 1)
    _quiet_and_private(params)
    _sane_sampling(params.sampling)
    return xllamacpp.Server(params)


def _cpus() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _quiet_and_private(params: Any) -> None:  # noqa: ANN401
    params.verbosity = -1
    params.offline = True
    params.ui = False
    params.endpoint_slots = False
    params.cors_origins = ""
    params.cache_ram_mib = 0


def _sane_sampling(sampling: Any) -> None:  # noqa: ANN401
    """Cooler than its authors recommend: at 0.2 the quantised model loses the thread. The penalty prevents loops."""
    sampling.temp = 0.1
    sampling.top_p = 0.9
    sampling.penalty_repeat = 1.1


def _announce(**facts: object) -> None:
    sys.stdout.write(json.dumps(facts) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
