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


def send_request(sender, receiver):
    return call("POST", "/api/v1/partners/requests", sender, to={"user_id": receiver.id})


def request_new_user(case, me):
    case.body["to"] = {"user_id": register().id}


def decide_received_request(case, me):
    case.path_parameters["id"] = send_request(register(), me)["id"]


def use_sent_request(case, me):
    case.path_parameters["id"] = send_request(me, register())["id"]


def ensure_bond(case, me):
    if call("GET", "/api/v1/partners/current", me)["bond"]:
        return
    other = register()
    send_request(other, me)
    send_request(me, other)


def use_invite_of_other(case, me):
    case.path_parameters["code"] = call("POST", "/api/v1/partners/invites", register())["code"]


def use_own_invite(case, me):
    for invite in call("GET", "/api/v1/partners/invites", me)["items"]:
        call("DELETE", f"/api/v1/partners/invites/{invite['id']}", me)
    case.path_parameters["code"] = call("POST", "/api/v1/partners/invites", me)["code"]


def report_received_request(case, me):
    body = {"to": {"user_id": me.id}, "message": "Shall we?"}
    case.path_parameters["id"] = call("POST", "/api/v1/partners/requests", register(), **body)["id"]


def request_new_user_by_old_path(case, me):
    case.body.pop("email", None)
    case.body["partnerId"] = register().id


def use_blocked_user(case, me):
    other = register()
    call("PUT", f"/api/v1/blocks/{other.id}", me)
    case.path_parameters["user_id"] = other.id


def use_nicknamed_user(case, me):
    other = register()
    call("PUT", f"/api/v1/nicknames/{other.id}", me, nickname="bear")
    case.path_parameters["user_id"] = other.id


def use_new_user(case, me):
    case.path_parameters["id"] = register().id


def use_own_session(case, me):
    case.path_parameters["id"] = call("GET", "/api/v1/auth/sessions", me)["items"][0]["id"]


def set_password(case, me):
    case.body["password"] = PASSWORD


def set_passwords(case, me):
    case.body.update(current_password=PASSWORD, new_password=f"another horse {next(numbers)}")


def set_own_credentials(case, me):
    case.body.update(email=me.email, password=PASSWORD)


def set_new_account(case, me):
    case.body.update(email=f"new{next(numbers)}@example.org", password=PASSWORD, display_name="New")


def set_link_secret(case, me):
    """Succeeds once, while no administrator exists."""
    set_new_account(case, me)
    if LINK.exists():
        case.body["secret"] = link_secret()


def set_refresh_token(case, me):
    case.body["refresh_token"] = register().refresh_token


def set_deleted_credentials(case, me):
    gone = register()
    call("DELETE", "/api/v1/me", gone, password=PASSWORD)
    case.body.update(email=gone.email, password=PASSWORD)


def set_registered_address(case, me):
    case.body["email"] = register().email


def use_collection(case, me):
    case.path_parameters.update(space="me", collection="notes")


def use_item(case, me):
    use_collection(case, me)
    case.path_parameters["id"] = call("POST", "/api/v1/spaces/me/notes", me, data={"n": 1})["id"]


def use_bond(case, me):
    bond = call("GET", "/api/v1/partners/current", me)["bond"]
    if bond is None:
        partner = register()
        send_request(partner, me)
        bond = send_request(me, partner)["bond"]
    case.path_parameters["bond_id"] = bond["id"]


def use_declared_collection(case, me):
    case.path_parameters["name"] = name = f"collection{next(numbers)}"
    if ROLE == "admin":
        call("PUT", f"/api/v1/admin/collections/{name}", me, fields=["n"])


def set_api_key(case, me):
    case.body = {"name": f"program{next(numbers)}", "scopes": ["jobs.read"]}


def use_api_key(case, me):
    if ROLE == "admin":
        made = call("POST", "/api/v1/admin/api-keys", me, name="a program", scopes=["jobs.read"])
        case.path_parameters["id"] = made["id"]


HOOKS = "https://hooks.example.org/kith"


def set_callback(case, me):
    case.body.pop("endpoint_id", None)
    case.body.update(url=HOOKS, method="POST", headers={})
    case.body.pop("text", None)
    case.body["run_at"] = "2030-01-01T00:00:00Z"


def set_endpoint_url(case, me):
    case.body["url"] = HOOKS


def use_endpoint(case, me):
    if ROLE == "admin":
        made = call("POST", "/api/v1/callback-endpoints", me, url=HOOKS)
        call("POST", f"/api/v1/callback-endpoints/{made['id']}/enable", me)
        case.path_parameters["id"] = made["id"]


def use_callback(case, me):
    if ROLE == "admin":
        use_endpoint(case, me)
        made = call("POST", "/api/v1/callbacks", me, url=HOOKS, run_at="2030-01-01T00:00:00Z")
        case.path_parameters["id"] = made["id"]


def set_recurring_callback(case, me):
    case.body = {"request": {"url": HOOKS}, "schedule": "@hourly"}


def use_recurring_callback(case, me):
    if ROLE == "admin":
        use_endpoint(case, me)
        made = call(
            "POST", "/api/v1/recurring-callbacks", me, request={"url": HOOKS}, schedule="@hourly"
        )
        case.path_parameters["id"] = made["id"]


def use_cancelled_callback(case, me):
    if ROLE == "admin":
        use_callback(case, me)
        call("POST", f"/api/v1/callbacks/{case.path_parameters['id']}/cancel", me)


def new_job(me, **more):
    return call("POST", "/api/v1/jobs", me, kind="fuzz", queue=f"fuzz{next(numbers)}", **more)["id"]


def use_job(case, me):
    if ROLE == "admin":
        case.path_parameters["id"] = new_job(me, delay_ms=60000)


def use_ended_job(case, me):
    if ROLE == "admin":
        case.path_parameters["id"] = job = new_job(me, delay_ms=60000)
        call("POST", f"/api/v1/jobs/{job}/cancel", me)


def use_claimed_job(case, me):
    if ROLE == "admin":
        queue = f"fuzz{next(numbers)}"
        job = call("POST", "/api/v1/jobs", me, kind="fuzz", queue=queue)["id"]
        claimed = call("POST", f"/api/v1/queues/{queue}/claim", me, limit=1)
        case.path_parameters["id"] = job
        case.body = {"lease_token": claimed["jobs"][0]["lease_token"], **MORE.get(name_of(case.operation), {})}


MORE = {"reportProgress": {"progress": 1}, "logLine": {"line": "a"}, "failJob": {"error": "a"}}


def set_job(case, me):
    case.body = {"kind": "fuzz", "queue": f"fuzz{next(numbers)}"}


def set_jobs(case, me):
    case.body = {"jobs": [{"kind": "fuzz", "queue": f"fuzz{next(numbers)}"}]}


def use_job_kind(case, me):
    case.path_parameters["kind"] = kind = f"kind{next(numbers)}"
    if ROLE == "admin":
        call("PUT", f"/api/v1/job-kinds/{kind}", me, queue="fuzz")


def set_claim(case, me):
    case.body = {"limit": 1}


def schedule_of(case, me, name):
    case.path_parameters["name"] = name
    return {"queue": "reports", "kind": "reports.write", "schedule": "@daily"}


def set_schedule(case, me):
    case.body = schedule_of(case, me, f"schedule{next(numbers)}")


def use_schedule(case, me):
    body = schedule_of(case, me, f"schedule{next(numbers)}")
    if ROLE == "admin":
        call("PUT", f"/api/v1/schedules/{case.path_parameters['name']}", me, **body)


def set_backfill(case, me):
    use_schedule(case, me)
    case.body = {"from": "2026-01-01T00:00:00Z", "to": "2026-01-03T00:00:00Z"}


def set_daily_preview(case, me):
    case.query = {"schedule": "@daily"}


def use_page_file(case, me):
    page = requests.get(URL + "/docs", timeout=30).text
    case.path_parameters["file"] = re.search(r"/docs/(page\.[^\"]+)", page)[1]


FIXED_REQUESTS = {
    "acceptFirstAdmin": set_link_secret,
    "acceptPartnerRequest": decide_received_request,
    "backfillSchedule": set_backfill,
    "breakUp": ensure_bond,
    "cancelCallback": use_callback,
    "cancelJob": use_job,
    "cancelPartnerRequest": use_sent_request,
    "changePassword": set_passwords,
    "claimJobs": set_claim,
    "completeJob": use_claimed_job,
    "createApiKey": set_api_key,
    "createCallback": set_callback,
    "createCallbackEndpoint": set_endpoint_url,
    "createItem": use_collection,
    "createRecurringCallback": set_recurring_callback,
    "deleteItem": use_item,
    "deleteMe": set_password,
    "deleteSchedule": use_schedule,
    "deleteRecurringCallback": use_recurring_callback,
    "disableCallbackEndpoint": use_endpoint,
    "docsFile": use_page_file,
    "enableCallbackEndpoint": use_endpoint,
    "endSession": use_own_session,
    "enqueueJob": set_job,
    "enqueueJobs": set_jobs,
    "exportBondSpace": use_bond,
    "failJob": use_claimed_job,
    "getAccount": use_new_user,
    "getApiKey": use_api_key,
    "getBlock": use_blocked_user,
    "getCallback": use_callback,
    "getCallbackEndpoint": use_endpoint,
    "getCollection": use_declared_collection,
    "getItem": use_item,
    "getJob": use_job,
    "getJobKind": use_job_kind,
    "getNickname": use_nicknamed_user,
    "getPartnerRequest": use_sent_request,
    "heartbeatJob": use_claimed_job,
    "getSchedule": use_schedule,
    "getRecurringCallback": use_recurring_callback,
    "listItems": use_collection,
    "listScheduleRuns": use_schedule,
    "logIn": set_own_credentials,
    "logLine": use_claimed_job,
    "logOut": set_refresh_token,
    "patchItem": use_item,
    "pauseSchedule": use_schedule,
    "pingCallbackEndpoint": use_endpoint,
    "previewInvite": use_invite_of_other,
    "previewSchedule": set_daily_preview,
    "refreshSession": set_refresh_token,
    "register": set_new_account,
    "reinstateAccount": use_new_user,
    "rejectPartnerRequest": decide_received_request,
    "releaseEmail": use_new_user,
    "replaceItem": use_item,
    "reportPartnerRequest": report_received_request,
    "reportProgress": use_claimed_job,
    "restoreAccount": set_deleted_credentials,
    "resumeSchedule": use_schedule,
    "retryCallback": use_cancelled_callback,
    "retryJob": use_job,
    "revokeApiKey": use_api_key,
    "revokeInvite": use_own_invite,
    "rotateCallbackSecret": use_endpoint,
    "runSchedule": use_schedule,
    "sendPartnerRequest": request_new_user,
    "sendPartnerRequestByOldPath": request_new_user_by_old_path,
    "setRole": use_new_user,
    "setSchedule": set_schedule,
    "suspendAccount": use_new_user,
    "verifyEmail": use_new_user,
    "verifyEmailInDevelopment": set_registered_address,
    "watchJob": use_ended_job,
    "withdrawCollection": use_declared_collection,
    "withdrawJobKind": use_job_kind,
}


# Operations that end the caller's session or delete the caller's account if they succeed.
ENDS_SESSION = ("deleteMe", "endSession", "endSessions", "changePassword")
# Operations that sign out another account or change its role if they succeed.
CHANGES_ACCOUNTS = ("releaseEmail", "setRole", "suspendAccount")


# Operations that wait for an event: valid requests may take as long as their timeout.
LONG_POLLS = ("claimJobs", "watchJob")


@schemathesis.hook
def before_call(context, case, kwargs):
    name = name_of(case.operation)
    if admin is not None and (case.path_parameters or {}).get("id") == admin.id:
        use_new_user(case, admin)
    positive = case.meta is not None and case.meta.generation.mode.is_positive
    suited = FIXED_REQUESTS.get(name) or FIXED_REQUESTS.get(name.removesuffix("ByOldPath"))
    if positive and suited and (name in LONG_POLLS or next(turns) % 2):
        suited(case, account_of(case.operation))
    elif name in LONG_POLLS and isinstance((case.path_parameters or {}).get("id"), int):
        case.path_parameters["id"] = 2**53 - 1


@schemathesis.check
def has_valid_retry_after(context, response, case):
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
    if status < 300 and name in ENDS_SESSION:
        accounts.pop(name, None)
    if status < 300 and name in CHANGES_ACCOUNTS:
        changed = response.json()["id"]
        for other in [other for other, account in accounts.items() if account.id == changed]:
            accounts.pop(other)


@atexit.register
def write_seen():
    SEEN.write_text(json.dumps(seen))
