"""Charging a user over HTTP: once, or not at all, or nobody knows yet and the same key will tell."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from flask.testing import FlaskClient

from backend.app import create_app
from tests.backend.accounts import START, charges
from tests.backend.running import Fault, Services


def deduct(client: FlaskClient, body: Any = None, key: str | None = None) -> Any:
    headers = {} if key is None else {"Idempotency-Key": key}
    return client.post(
        "/v1/api/billing/deduct", json={"amount": 100} if body is None else body, headers=headers
    )


def test_charge_is_taken_and_the_balance_told(client: FlaskClient, services: Services) -> None:
    """A charge lowers the balance by its amount."""
    response = deduct(client, {"amount": 100, "currency": "USD", "description": "a book"})

    assert response.status_code == 200
    assert (response.json["amount"], response.json["balance"]) == (100, START - 100)
    assert client.get("/v1/api/billing/balance").json["balance"] == START - 100
    assert charges(services) == [100]


def test_balance_is_asked_by_currency(client: FlaskClient) -> None:
    """Each currency has an account of its own."""
    deduct(client, {"amount": 100, "currency": "EUR"})

    assert client.get("/v1/api/billing/balance?currency=EUR").json["available"] == START - 100
    assert client.get("/v1/api/billing/balance").json["available"] == START
    assert client.get("/v1/api/billing/balance?currency=eur").json["field"] == "currency"


def test_same_key_charges_once(client: FlaskClient, services: Services) -> None:
    """A repeated request gets the first answer and takes nothing more."""
    first, second = deduct(client, key="k1"), deduct(client, key="k1")

    assert first.json == second.json
    assert first.headers["Idempotency-Key"] == "k1"
    assert charges(services) == [100]


def test_without_a_key_each_request_is_a_charge(client: FlaskClient, services: Services) -> None:
    """Two requests without keys are two charges; each is told the key that would repeat it."""
    first, second = deduct(client), deduct(client)
    again = deduct(client, key=first.headers["Idempotency-Key"])

    assert first.headers["Idempotency-Key"] != second.headers["Idempotency-Key"]
    assert again.json == first.json
    assert charges(services) == [100, 100]


def test_same_key_with_another_amount_is_refused(client: FlaskClient, services: Services) -> None:
    """One key stands for one charge."""
    deduct(client, key="k1")
    response = deduct(client, {"amount": 200}, key="k1")

    assert (response.status_code, response.json["field"]) == (422, "Idempotency-Key")
    assert charges(services) == [100]


def test_keys_of_two_users_do_not_meet(settings: dict[str, Any], services: Services) -> None:
    """Two users who choose the same key are both charged, each for himself."""
    secret = "a secret of more than thirty-two bytes"
    client = create_app({**settings, "AUTH_JWT_SECRET": secret}).test_client()
    for user in ("alice", "bob"):
        token = issue(secret, user)
        headers = {"Authorization": f"Bearer {token}", "Idempotency-Key": "k1"}
        assert client.post("/v1/api/billing/deduct", json={"amount": 7}, headers=headers).status_code == 200

    assert charges(services, "alice") == charges(services, "bob") == [7]


def issue(secret: str, user: str) -> str:
    from backend.auth import issue_token
    from backend.config import Settings

    return issue_token(Settings(auth_jwt_secret=secret), user, 1)


def test_charge_under_way_is_passed_on(client: FlaskClient, services: Services) -> None:
    """When Billing still works on the first attempt, the user is told to ask again with the same key."""
    services.billing.app.view_functions["deduct_cost"] = lambda: ("", 409, {"Retry-After": "7"})

    response = deduct(client, key="k1")

    assert (response.status_code, response.headers["Retry-After"]) == (409, "7")


def test_too_small_balance_is_402(client: FlaskClient, services: Services) -> None:
    """Who has not enough is told what he has, and keeps it."""
    response = deduct(client, {"amount": START + 1})

    assert response.status_code == 402
    assert (response.json["needed"], response.json["available"]) == (START + 1, START)
    assert charges(services) == []


@pytest.mark.parametrize(("fault", "status"), [(None, 503), (Fault.ERROR, 503), (Fault.REFUSED, 502)])
def test_billing_away_takes_nothing(
    client: FlaskClient, services: Services, fault: Fault | None, status: int
) -> None:
    """Without Billing there is no charge, only a problem that says when to come back."""
    services.billing.stop() if fault is None else services.billing.fail("/", fault)

    for response in (deduct(client), client.get("/v1/api/billing/balance")):
        assert (response.status_code, response.mimetype) == (status, "application/problem+json")
        assert ("Retry-After" in response.headers) == (status == 503)
    assert charges(services) == []


def test_slow_billing_is_504(settings: dict[str, Any], services: Services) -> None:
    """A Billing that does not answer in time is a time-out, not a refusal."""
    client = create_app({**settings, "BILLING_TIMEOUT": "0.3", "BILLING_MAX_RETRIES": "1"}).test_client()
    services.billing.fail("/", Fault.SILENT)

    assert deduct(client).status_code == 504


def test_meaningless_answer_is_no_success(client: FlaskClient, services: Services) -> None:
    """An answer that is no JSON is never taken for a charge."""
    services.billing.fail("/", Fault.NONSENSE)

    assert deduct(client).status_code == 503


def test_open_circuit_says_when_to_come_back(client: FlaskClient, services: Services) -> None:
    """After ten failed calls Billing is left alone, and Retry-After is the time until it is tried again."""
    services.billing.fail("/")
    for _ in range(10):
        assert deduct(client).status_code == 503
    before = len(services.billing.requests)

    response = deduct(client)

    assert response.status_code == 503
    assert 25 <= int(response.headers["Retry-After"]) <= 30
    assert len(services.billing.requests) == before


def test_charge_whose_answer_was_lost_is_taken_once(client: FlaskClient, services: Services) -> None:
    """The service commits and the connection breaks: the user's repeat with the same key finds the charge."""
    services.billing.fail("/deduct_cost", Fault.LOST)
    assert deduct(client, key="k1").status_code == 503
    services.billing.heal()

    assert deduct(client, key="k1").status_code == 200
    assert charges(services) == [100]


def test_no_charge_is_doubled_or_lost_while_billing_comes_and_goes(
    settings: dict[str, Any], services: Services
) -> None:
    """Users repeat until it works, while Billing breaks off answers, stops and starts: each pays once."""
    app = create_app({**settings, "BILLING_RECOVERY_TIMEOUT": "0.05"})
    done = threading.Event()
    failures: list[int] = []

    def come_and_go() -> None:
        while not done.wait(0.03):
            services.billing.fail("/deduct_cost", Fault.LOST)
            done.wait(0.03)
            services.billing.stop()
            services.billing.heal()
            done.wait(0.03)
            services.billing.start()

    def pay(worker: int) -> None:
        client = app.test_client()
        for number in range(20):
            while (status := deduct(client, {"amount": 1}, key=f"{worker}-{number}").status_code) != 200:
                failures.append(status)
                done.wait(0.02)

    troublemaker = threading.Thread(target=come_and_go)
    payers = [threading.Thread(target=pay, args=(worker,)) for worker in range(4)]
    for thread in (troublemaker, *payers):
        thread.start()
    for payer in payers:
        payer.join(40)
    done.set()
    troublemaker.join(5)

    assert charges(services) == [1] * 80
    assert failures


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "amount"),
        ({"amount": 0}, "amount"),
        ({"amount": -5}, "amount"),
        ({"amount": 1.5}, "amount"),
        ({"amount": 5.0}, "amount"),
        ({"amount": "5"}, "amount"),
        ({"amount": True}, "amount"),
        ({"amount": None}, "amount"),
        ({"amount": 10**30}, "amount"),
        ({"amount": 5, "currency": "usd"}, "currency"),
        ({"amount": 5, "currency": "DOLLARS"}, "currency"),
        ({"amount": 5, "currency": None}, "currency"),
        ({"amount": 5, "curency": "EUR"}, "curency"),
        ({"amount": 5, "user": "bob"}, "user"),
    ],
)
def test_bad_charge_names_the_field(lonely_client: FlaskClient, body: dict[str, Any], field: str) -> None:
    """What is wrong with a charge is said before anything is sent to Billing."""
    response = deduct(lonely_client, body)

    assert (response.status_code, response.json["field"]) == (400, field)


@pytest.mark.parametrize("key", ["", "a b", "ä", "x" * 256])
def test_bad_key_is_refused(lonely_client: FlaskClient, key: str) -> None:
    """A key that cannot travel in a header is named as the fault."""
    response = deduct(lonely_client, key=key)

    assert (response.status_code, response.json["field"]) == (400, "Idempotency-Key")
