"""What has to be known beside the figures of storm.py."""

from __future__ import annotations

from benchmarks.storm_cases import BROWN_OUT_BEGINS, BROWN_OUT_ENDS

__all__ = ["notes"]


def notes(full: int, quick: int) -> list[str]:
    """The notes.

    Args:
        full: Seconds that the simulation with the brown-out lasts.
        quick: The same with ``--quick``.
    """
    watched, rough = full - BROWN_OUT_ENDS, quick - BROWN_OUT_ENDS
    text = f"""
    A crowd of `20 x 50/s` is 20 processes with 50 calls a second each, which begin at random moments
    and do not wait for each other. No process knows of the others.

    Outage and errors: an attempt takes 20 ms, and fails always, or at random. Brown-out: a service that
    can do 4/3 of the calls works on one queue in the order of arrival. From second {BROWN_OUT_BEGINS}
    to {BROWN_OUT_ENDS} it does a quarter of that. Clients give an attempt up after 1 s; it stays in the
    queue and is worked on all the same.

    Attempts are those of the calls that began in the time named, whenever they were made. Good again:
    the first whole second after the end of the brown-out from which on, in every second to the end of
    the simulation, at least 99 % of the calls that begin in it succeed. Refused calls have not
    succeeded. `never`: not in the {watched} s that follow the brown-out ({rough} s for `1,000 x 50/s` and
    with `--quick`), less the last five, which would prove nothing. It depends on luck, too: a circuit that
    has just opened when the brown-out ends stays open for its whole time, one that was about to probe is well
    at once. The table of other lengths shows how much.

    Figures are means of all seeds, seconds are medians; of the targets the worst seed counts. For
    `1,000 x 50/s` there is one seed. Errors come for 120 s (for `1,000 x 50/s`: 20 s; half of all
    attempts: 300 s, 120 s with `--quick`). All circuits are closed at first, so the shorter the time the
    better off are those that open by chance.

    `ours` has the client's defaults: 3 attempts, a back-off of 1 s, then 2 s, each less up to half of
    it, a retry budget of half a retry per call with 10 in reserve, a circuit that opens after 5 failed
    calls in a row, for the seconds named. The window of 100 calls opens it when half of them have
    failed.

    `3 attempts` wait 1 s, then 2 s, each with up to 1 s on top (tenacity's `wait_exponential_jitter`).
    `pybreaker + tenacity` does so round a breaker that opens after 5 failed attempts in a row; its
    refusals are retried, as tenacity does with any exception, unless they are said to be final.
    pybreaker's lock is left out, which would let one attempt of a process through at a time. What keeps
    its circuits from recovering are their own callers: those that were refused and come back to a
    circuit that has just closed, in all processes at once.

    With little to do (`1,000 x 1/s`) the circuit of a process learns slowly: it takes five failed calls,
    so five seconds, and each of them makes all its attempts, since the reserve of the budget covers them.
    Nothing is promised of that.
    """
    return [" ".join(each.split()) for each in text.strip().split("\n\n")]
