"""The order of those who wait, and who is sent away when it is full."""

from __future__ import annotations

from orchestrator.resilience.queue import FairQueue, Ticket


def filled(size, *ranks, names=("a",)):
    queue = FairQueue(size)
    tickets = [Ticket(rank) for rank in ranks]
    for ticket in tickets:
        assert queue.put(ticket, names) is None
    return queue, tickets


def test_the_more_important_come_first_and_among_equals_the_older():
    queue, (late, early, urgent) = filled(9, (0, 7), (0, 3), (-1, 9))
    assert queue.tickets == [urgent, early, late]
    assert [queue.position(ticket) for ticket in (urgent, early, late)] == [1, 2, 3]
    assert queue.claims("a")[0] is urgent
    assert queue.claims("b") == ()


def test_a_ticket_that_changes_its_mind_claims_only_what_it_wants_now():
    queue, (ticket,) = filled(9, (0, 5), names=("a", "b"))
    assert queue.claims("b") == [ticket]
    queue.put(ticket, ("c",))
    assert queue.names == ("c",)
    assert queue.claims("a") == ()


def test_the_last_in_order_finds_no_place_in_a_full_queue():
    queue, (first, last) = filled(2, (0, 1), (0, 2))
    newcomer = Ticket((0, 3))
    assert queue.put(newcomer, ("a",)) is newcomer
    assert queue.tickets == [first, last]
    urgent = Ticket((-1, 4))
    assert queue.put(urgent, ("a",)) is last
    assert queue.tickets == [urgent, first]
    assert last.names == newcomer.names == ()


def test_the_last_of_several_goes_and_never_for_an_equal():
    queue, (*_, last) = filled(3, (0, 1), (0, 2), (0, 3))
    twin = Ticket(last.rank)
    assert queue.put(twin, ("a",)) is twin
    assert queue.put(Ticket((-1, 4)), ("a",)) is last


def test_of_equals_each_leaves_alone():
    queue, tickets = filled(9, *[(0, 1)] * 3)
    queue.remove(tickets[2])
    queue.remove(tickets[1])
    assert queue.tickets == [tickets[0]]


def test_who_is_in_a_full_queue_keeps_its_place():
    queue, (first, last) = filled(2, (0, 1), (0, 2))
    assert queue.put(last, ("b",)) is None
    assert queue.put(last, ("b",)) is None
    assert queue.tickets == [first, last]


def test_a_queue_without_places_takes_nobody():
    ticket = Ticket((0, 1))
    assert FairQueue(0).put(ticket, ("a",)) is ticket


def test_who_leaves_leaves_nothing_even_twice():
    queue, (ticket, twin) = filled(9, (0, 1), (0, 1), names=("a", "b"))
    assert queue.remove(ticket) == ("a", "b")
    assert queue.remove(ticket) == ()
    assert queue.tickets == [twin]
    queue.remove(twin)
    assert (queue.tickets, queue.names, queue.length("a")) == ([], (), 0)
