"""The experiments by the names of their rows; one more is one line more."""

from tests.system.experiments.kills import kill_the_generator
from tests.system.experiments.queue import claim_a_queue
from tests.system.experiments.sends import repeat_sends
from tests.system.experiments.stops import stop_from_elsewhere
from tests.system.report import Experiment

EXPERIMENTS: dict[str, Experiment] = {
    "kill -9 of the generating process": kill_the_generator,
    "queue claimed by four": claim_a_queue,
    "sends repeated at once": repeat_sends,
    "stop from another process": stop_from_elsewhere,
}
