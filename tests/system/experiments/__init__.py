"""The experiments by the names of their rows; one more is one line more."""

from tests.system.experiments.bells import cut_the_listeners, delay_across_processes
from tests.system.experiments.budgets import spend_a_budget
from tests.system.experiments.clocks import shift_a_clock
from tests.system.experiments.freezes import freeze_the_generator
from tests.system.experiments.guesses import guess_passwords, limit_an_address
from tests.system.experiments.kills import kill_the_generator
from tests.system.experiments.leaks import search_for_canaries
from tests.system.experiments.outages import kill_the_database
from tests.system.experiments.queue import claim_a_queue
from tests.system.experiments.restarts import restart_in_turn
from tests.system.experiments.sends import repeat_sends
from tests.system.experiments.sockets import drop_all_sockets
from tests.system.experiments.stops import stop_from_elsewhere
from tests.system.experiments.timing import time_known_and_unknown
from tests.system.experiments.tool_freezes import freeze_in_tools
from tests.system.experiments.tool_outages import kill_the_database_in_tools
from tests.system.experiments.tools import kill_in_tools
from tests.system.feed_experiment import conversation_events
from tests.system.report import Experiment

EXPERIMENTS: dict[str, Experiment] = {
    "kill -9 of the generating process": kill_the_generator,
    "kill -9 while tools are called": kill_in_tools,
    "SIGSTOP beyond the lease, then SIGCONT": freeze_the_generator,
    "SIGSTOP beyond the lease while tools run": freeze_in_tools,
    "queue claimed by four processes": claim_a_queue,
    "PostgreSQL killed under live replies": kill_the_database,
    "PostgreSQL killed while tools run": kill_the_database_in_tools,
    "LISTEN connection cut": cut_the_listeners,
    "conversation events of many writers": conversation_events,
    "sends repeated at once": repeat_sends,
    "stop from another process": stop_from_elsewhere,
    "rolling restart under load": restart_in_turn,
    "all sockets dropped at once": drop_all_sockets,
    "host clock off by two hours": shift_a_clock,
    "budget spent from all processes at once": spend_a_budget,
    "delay across processes": delay_across_processes,
    "passwords guessed on every process": guess_passwords,
    "one address against many accounts": limit_an_address,
    "canaries in everything that is said": search_for_canaries,
    "time of sign-ins of known and unknown users": time_known_and_unknown,
}
