"""Accounts and existing resources for the requests of schemathesis.

All operations are called by accounts of one role, `user` or `admin`. Each operation has its own account. It gets a new
one after the account was signed out, deleted or suspended, or its role was changed, so that cases do not affect each
other. Every second valid case refers to an existing resource.
"""

import atexit
import itertools
import json
import os
import re
from dataclasses import dataclass
from pathlib import Path

import requests
import schemathesis

URL = os.environ["KITH_FUZZ_URL"]
DATA = Path(os.environ["KITH_FUZZ_DATA"])
SEEN = Path(os.environ["KITH_FUZZ_SEEN"])
ROLE = os.environ["KITH_FUZZ_ROLE"]
LINK = DATA / "first-admin-link"
PASSWORD = "correct horse"

numbers = itertools.count()
turns = itertools.count()
accounts = {}
seen = {}
admin = None


@dataclass
class Account:
    id: str
    email: str
    access_token: str
    refresh_token: str


def call(method, path, by=None, **body):
    headers = {"Authorization": f"Bearer {by.access_token}"} if by else {}
    answer = requests.request(method, URL + path, headers=headers, json=body or None, timeout=30)
    answer.raise_for_status()
    return answer.json() if answer.content else None


def register(path="/api/v1/auth/register", **more):
    email = f"user{next(numbers)}@example.org"
    signed_in = call("POST", path, email=email, password=PASSWORD, display_name="User", **more)
    return Account(signed_in["user"]["id"], email, signed_in["access_token"], signed_in["refresh_token"])


def link_secret():
    return LINK.read_text().strip().rpartition("#")[2]


def register_admin():
    """Registers an administrator: the first through the link in the data folder, others with the first one's token."""
    global admin
    if admin is None:
        admin = register("/api/v1/auth/first-admin", secret=link_secret())
    account = register()
    call("PUT", f"/api/v1/admin/users/{account.id}/role", admin, role="admin")
    return account


def name_of(operation):
    return operation.definition.raw["operationId"]


def permissions_of(operation):
    return [name for way in operation.definition.raw.get("security", []) for name in way.get("bearer", [])]


def account_of(operation):
    name = name_of(operation)
    if name not in accounts:
        accounts[name] = register_admin() if ROLE == "admin" else register()
    return accounts[name]


@schemathesis.auth(refresh_interval=None)
class Auth:
    def get(self, case, context):
        return account_of(case.operation)

    def set(self, case, account, context):
        case.headers["Authorization"] = f"Bearer {account.access_token}"


def ask(sender, receiver):
    return call("POST", "/api/v1/partners/requests", sender, to={"user_id": receiver.id})


def ask_somebody(case, me):
    case.body["to"] = {"user_id": register().id}


def answer_somebody(case, me):
    case.path_parameters["id"] = ask(register(), me)["id"]


def about_what_i_asked(case, me):
    case.path_parameters["id"] = ask(me, register())["id"]


def with_a_partner(case, me):
    if call("GET", "/api/v1/partners/current", me)["bond"]:
        return
    other = register()
    ask(other, me)
    ask(me, other)


def with_an_invite(case, me):
    case.path_parameters["code"] = call("POST", "/api/v1/partners/invites", register())["code"]


def with_my_invite(case, me):
    for invite in call("GET", "/api/v1/partners/invites", me)["items"]:
        call("DELETE", f"/api/v1/partners/invites/{invite['id']}", me)
    case.path_parameters["code"] = call("POST", "/api/v1/partners/invites", me)["code"]


def report_somebody(case, me):
    body = {"to": {"user_id": me.id}, "message": "Shall we?"}
    case.path_parameters["id"] = call("POST", "/api/v1/partners/requests", register(), **body)["id"]


def ask_by_old_path(case, me):
    case.body.pop("email", None)
    case.body["partnerId"] = register().id


def about_one_blocked(case, me):
    other = register()
    call("PUT", f"/api/v1/blocks/{other.id}", me)
    case.path_parameters["user_id"] = other.id


def about_one_with_a_nickname(case, me):
    other = register()
    call("PUT", f"/api/v1/nicknames/{other.id}", me, nickname="bear")
    case.path_parameters["user_id"] = other.id


def about_somebody(case, me):
    case.path_parameters["id"] = register().id


def about_own_session(case, me):
    case.path_parameters["id"] = call("GET", "/api/v1/auth/sessions", me)["items"][0]["id"]


def with_password(case, me):
    case.body["password"] = PASSWORD


def with_another_password(case, me):
    case.body.update(current_password=PASSWORD, new_password=f"another horse {next(numbers)}")


def with_address(case, me):
    case.body.update(email=me.email, password=PASSWORD)


def with_new_address(case, me):
    case.body.update(email=f"new{next(numbers)}@example.org", password=PASSWORD, display_name="New")


def with_link(case, me):
    """Succeeds once, while no administrator exists."""
    with_new_address(case, me)
    if LINK.exists():
        case.body["secret"] = link_secret()


def with_refresh_token(case, me):
    case.body["refresh_token"] = register().refresh_token


def after_leaving(case, me):
    gone = register()
    call("DELETE", "/api/v1/me", gone, password=PASSWORD)
    case.body.update(email=gone.email, password=PASSWORD)


def with_registered_address(case, me):
    case.body["email"] = register().email


def in_a_collection(case, me):
    case.path_parameters.update(space="me", collection="notes")


def about_an_item(case, me):
    in_a_collection(case, me)
    case.path_parameters["id"] = call("POST", "/api/v1/spaces/me/notes", me, data={"n": 1})["id"]


def about_a_bond(case, me):
    bond = call("GET", "/api/v1/partners/current", me)["bond"]
    if bond is None:
        partner = register()
        ask(partner, me)
        bond = ask(me, partner)["bond"]
    case.path_parameters["bond_id"] = bond["id"]


def about_a_declared_collection(case, me):
    case.path_parameters["name"] = name = f"collection{next(numbers)}"
    if ROLE == "admin":
        call("PUT", f"/api/v1/admin/collections/{name}", me, fields=["n"])


def with_a_scope(case, me):
    case.body = {"name": f"program{next(numbers)}", "scopes": ["jobs.read"]}


def about_a_key(case, me):
    if ROLE == "admin":
        made = call("POST", "/api/v1/admin/api-keys", me, name="a program", scopes=["jobs.read"])
        case.path_parameters["id"] = made["id"]


HOOKS = "https://hooks.example.org/kith"


def to_an_endpoint(case, me):
    case.body.pop("endpoint_id", None)
    case.body.update(url=HOOKS, method="POST", headers={})
    case.body.pop("text", None)
    case.body["run_at"] = "2030-01-01T00:00:00Z"


def to_an_endpoint_of_its_own(case, me):
    case.body["url"] = HOOKS


def about_an_endpoint(case, me):
    if ROLE == "admin":
        made = call("POST", "/api/v1/callback-endpoints", me, url=HOOKS)
        call("POST", f"/api/v1/callback-endpoints/{made['id']}/enable", me)
        case.path_parameters["id"] = made["id"]


def about_a_callback(case, me):
    if ROLE == "admin":
        about_an_endpoint(case, me)
        made = call("POST", "/api/v1/callbacks", me, url=HOOKS, run_at="2030-01-01T00:00:00Z")
        case.path_parameters["id"] = made["id"]


def again_and_again(case, me):
    case.body = {"request": {"url": HOOKS}, "schedule": "@hourly"}


def about_a_recurring_one(case, me):
    if ROLE == "admin":
        about_an_endpoint(case, me)
        made = call(
            "POST", "/api/v1/recurring-callbacks", me, request={"url": HOOKS}, schedule="@hourly"
        )
        case.path_parameters["id"] = made["id"]


def about_one_taken_back(case, me):
    if ROLE == "admin":
        about_a_callback(case, me)
        call("POST", f"/api/v1/callbacks/{case.path_parameters['id']}/cancel", me)


def new_job(me, **more):
    return call("POST", "/api/v1/jobs", me, kind="fuzz", queue=f"fuzz{next(numbers)}", **more)["id"]


def about_a_job(case, me):
    if ROLE == "admin":
        case.path_parameters["id"] = new_job(me, delay_ms=60000)


def about_a_job_that_has_ended(case, me):
    if ROLE == "admin":
        case.path_parameters["id"] = job = new_job(me, delay_ms=60000)
        call("POST", f"/api/v1/jobs/{job}/cancel", me)


def about_a_job_i_have(case, me):
    if ROLE == "admin":
        queue = f"fuzz{next(numbers)}"
        job = call("POST", "/api/v1/jobs", me, kind="fuzz", queue=queue)["id"]
        claimed = call("POST", f"/api/v1/queues/{queue}/claim", me, limit=1)
        case.path_parameters["id"] = job
        case.body = {"lease_token": claimed["jobs"][0]["lease_token"], **MORE.get(name_of(case.operation), {})}


MORE = {"reportProgress": {"progress": 1}, "logLine": {"line": "a"}, "failJob": {"error": "a"}}


def to_enqueue(case, me):
    case.body = {"kind": "fuzz", "queue": f"fuzz{next(numbers)}"}


def many_to_enqueue(case, me):
    case.body = {"jobs": [{"kind": "fuzz", "queue": f"fuzz{next(numbers)}"}]}


def about_a_kind(case, me):
    case.path_parameters["kind"] = kind = f"kind{next(numbers)}"
    if ROLE == "admin":
        call("PUT", f"/api/v1/job-kinds/{kind}", me, queue="fuzz")


def without_waiting(case, me):
    case.body = {"limit": 1}


def schedule_of(case, me, name):
    case.path_parameters["name"] = name
    return {"queue": "reports", "kind": "reports.write", "schedule": "@daily"}


def with_a_schedule(case, me):
    case.body = schedule_of(case, me, f"schedule{next(numbers)}")


def about_a_schedule(case, me):
    body = schedule_of(case, me, f"schedule{next(numbers)}")
    if ROLE == "admin":
        call("PUT", f"/api/v1/schedules/{case.path_parameters['name']}", me, **body)


def of_a_past_time(case, me):
    about_a_schedule(case, me)
    case.body = {"from": "2026-01-01T00:00:00Z", "to": "2026-01-03T00:00:00Z"}


def of_every_day(case, me):
    case.query = {"schedule": "@daily"}


def from_the_page(case, me):
    page = requests.get(URL + "/docs", timeout=30).text
    case.path_parameters["file"] = re.search(r"/docs/(page\.[^\"]+)", page)[1]


SUITED = {
    "acceptFirstAdmin": with_link,
    "acceptPartnerRequest": answer_somebody,
    "backfillSchedule": of_a_past_time,
    "breakUp": with_a_partner,
    "cancelCallback": about_a_callback,
    "cancelJob": about_a_job,
    "cancelPartnerRequest": about_what_i_asked,
    "changePassword": with_another_password,
    "claimJobs": without_waiting,
    "completeJob": about_a_job_i_have,
    "createApiKey": with_a_scope,
    "createCallback": to_an_endpoint,
    "createCallbackEndpoint": to_an_endpoint_of_its_own,
    "createItem": in_a_collection,
    "createRecurringCallback": again_and_again,
    "deleteItem": about_an_item,
    "deleteMe": with_password,
    "deleteSchedule": about_a_schedule,
    "deleteRecurringCallback": about_a_recurring_one,
    "disableCallbackEndpoint": about_an_endpoint,
    "docsFile": from_the_page,
    "enableCallbackEndpoint": about_an_endpoint,
    "endSession": about_own_session,
    "enqueueJob": to_enqueue,
    "enqueueJobs": many_to_enqueue,
    "exportBondSpace": about_a_bond,
    "failJob": about_a_job_i_have,
    "getAccount": about_somebody,
    "getApiKey": about_a_key,
    "getBlock": about_one_blocked,
    "getCallback": about_a_callback,
    "getCallbackEndpoint": about_an_endpoint,
    "getCollection": about_a_declared_collection,
    "getItem": about_an_item,
    "getJob": about_a_job,
    "getJobKind": about_a_kind,
    "getNickname": about_one_with_a_nickname,
    "getPartnerRequest": about_what_i_asked,
    "heartbeatJob": about_a_job_i_have,
    "getSchedule": about_a_schedule,
    "getRecurringCallback": about_a_recurring_one,
    "listItems": in_a_collection,
    "listScheduleRuns": about_a_schedule,
    "logIn": with_address,
    "logLine": about_a_job_i_have,
    "logOut": with_refresh_token,
    "patchItem": about_an_item,
    "pauseSchedule": about_a_schedule,
    "pingCallbackEndpoint": about_an_endpoint,
    "previewInvite": with_an_invite,
    "previewSchedule": of_every_day,
    "refreshSession": with_refresh_token,
    "register": with_new_address,
    "reinstateAccount": about_somebody,
    "rejectPartnerRequest": answer_somebody,
    "releaseEmail": about_somebody,
    "replaceItem": about_an_item,
    "reportPartnerRequest": report_somebody,
    "reportProgress": about_a_job_i_have,
    "restoreAccount": after_leaving,
    "resumeSchedule": about_a_schedule,
    "retryCallback": about_one_taken_back,
    "retryJob": about_a_job,
    "revokeApiKey": about_a_key,
    "revokeInvite": with_my_invite,
    "rotateCallbackSecret": about_an_endpoint,
    "runSchedule": about_a_schedule,
    "sendPartnerRequest": ask_somebody,
    "sendPartnerRequestByOldPath": ask_by_old_path,
    "setRole": about_somebody,
    "setSchedule": with_a_schedule,
    "suspendAccount": about_somebody,
    "verifyEmail": about_somebody,
    "verifyEmailInDevelopment": with_registered_address,
    "watchJob": about_a_job_that_has_ended,
    "withdrawCollection": about_a_declared_collection,
    "withdrawJobKind": about_a_kind,
}


# Operations that end the caller's session or delete the caller's account if they succeed.
ENDS = ("deleteMe", "endSession", "endSessions", "changePassword")
# Operations that sign out another account or change its role if they succeed.
CHANGES = ("releaseEmail", "setRole", "suspendAccount")


# Operations that wait for an event: valid requests may take as long as their timeout.
PATIENT = ("claimJobs", "watchJob")


@schemathesis.hook
def before_call(context, case, kwargs):
    name = name_of(case.operation)
    if admin is not None and (case.path_parameters or {}).get("id") == admin.id:
        about_somebody(case, admin)
    positive = case.meta is not None and case.meta.generation.mode.is_positive
    suited = SUITED.get(name) or SUITED.get(name.removesuffix("ByOldPath"))
    if positive and suited and (name in PATIENT or next(turns) % 2):
        suited(case, account_of(case.operation))
    elif name in PATIENT and isinstance((case.path_parameters or {}).get("id"), int):
        case.path_parameters["id"] = 2**53 - 1


@schemathesis.check
def says_when_to_come_again(context, response, case):
    if response.status_code in (429, 503):
        assert "retry-after" in {name.lower() for name in response.headers}, "no Retry-After"


@schemathesis.hook
def after_call(context, case, response):
    name = name_of(case.operation)
    operation = seen.setdefault(
        name, {"permissions": permissions_of(case.operation), "statuses": {}, "signed_out": 0}
    )
    status = response.status_code
    operation["statuses"][status] = operation["statuses"].get(status, 0) + 1
    account, sent = accounts.get(name), response.request.headers.get("Authorization")
    is_signed_in = account is not None and sent == f"Bearer {account.access_token}"
    if is_signed_in and status == 401 and case.operation.definition.raw.get("security"):
        operation["signed_out"] += 1
    if status < 300 and name in ENDS:
        accounts.pop(name, None)
    if status < 300 and name in CHANGES:
        changed = response.json()["id"]
        for other in [other for other, account in accounts.items() if account.id == changed]:
            accounts.pop(other)


@atexit.register
def tell():
    SEEN.write_text(json.dumps(seen))
