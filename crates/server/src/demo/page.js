// What is shown, and what each button does. Whatever is done, both are looked at again.

import { Person, call } from "/demo/person.js";

const happened = document.getElementById("happened");
const problem = document.getElementById("problem");
const calls = document.getElementById("calls");
const sides = ["left", "right"];
const shown = {};
let people = [];
let done = 0;

document.addEventListener("called", ({ detail }) => {
  calls.prepend(el("li", {}, detail));
  while (calls.children.length > 40) {
    calls.lastChild.remove();
  }
});

function el(tag, attributes, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) {
      node.addEventListener(name.slice(2), value);
    } else {
      node.setAttribute(name, value);
    }
  }
  node.append(...children.filter((child) => child !== null));
  return node;
}

function button(what, label, act, kind = "") {
  return el("button", { type: "button", class: kind, "data-do": what, onclick: () => run(act) }, label);
}

const day = (time) => new Date(time).toLocaleDateString(undefined, { dateStyle: "medium" });
const plural = (n, one, more) => `${n} ${n === 1 ? one : more}`;

// Does something, says in a line what happened, and shows how things are now.
async function run(act) {
  problem.hidden = true;
  document.body.inert = true;
  try {
    const line = await act();
    await show();
    happened.textContent = line;
  } catch (refusal) {
    problem.textContent = refusal.message;
    problem.hidden = false;
    await show().catch(() => {});
  }
  document.body.inert = false;
  done += 1;
  document.body.dataset.done = done;
}

async function show() {
  const clock = await call("GET", "/dev/clock");
  const now = document.getElementById("now");
  now.dateTime = clock.now;
  now.textContent = new Date(clock.now).toLocaleString(undefined, { dateStyle: "full", timeStyle: "short" });
  const days = Math.round(clock.ahead_ms / 86_400_000);
  document.getElementById("ahead").textContent = days ? `(${plural(days, "day", "days")} ahead)` : "";
  for (const side of sides) {
    await shown[side].look();
  }
  sides.forEach(draw);
}

function draw(side) {
  const me = shown[side];
  const other = shown[sides.find((name) => name !== side)];
  const place = document.getElementById(side);
  place.dataset.bond = me.bond?.id ?? "";
  place.replaceChildren(
    el("div", { class: "who" }, el("h2", {}, me.name), choice(side)),
    me.bond ? bonded(me) : free(me),
    ...(me.bond ? space(me) : requests(me, other)),
    ...past(me),
  );
}

function choice(side) {
  const options = people.map((one) => el("option", { value: one.name }, one.name));
  const select = el("select", { "aria-label": "Another person", onchange: () => run(() => choose(side, select.value)) }, ...options);
  select.value = shown[side].name;
  return select;
}

async function choose(side, name) {
  const other = sides.find((one) => one !== side);
  const found = people.find((one) => one.name === name);
  if (shown[other]?.name === name) {
    shown[other] = shown[side];
  }
  shown[side] = new Person(found);
  await shown[side].signIn();
  return `${name} has signed in.`;
}

function bonded({ bond }) {
  const since = ` since ${day(bond.since)}`;
  const back = bond.restorations ? `, back ${bond.restorations === 1 ? "once" : `${bond.restorations} times`}` : "";
  return el("p", { class: "state" }, el("strong", {}, `Partner of ${bond.partner.display_name}`), since + back, ".");
}

function free() {
  return el("p", { class: "state" }, "Has no partner.");
}

function space(me) {
  const items = me.notes.items.map((note) => el("li", { "data-note": note.id }, note.data.text ?? JSON.stringify(note.data)));
  const text = el("input", { "aria-label": "What to write", placeholder: "Write something for both", maxlength: 500, required: "" });
  const write = async () => {
    await me.write(text.value);
    return `${me.name} wrote in the space that both share.`;
  };
  const form = el("form", {}, text, el("button", { "data-do": "write" }, "Write"));
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    run(write);
  });
  const part = async () => {
    const { bond } = await me.part();
    return `${me.name} parted from ${bond.partner.display_name}. Up to ${day(bond.restorable_until)} they can come back to all of it.`;
  };
  return [
    el("h3", {}, "Our space"),
    items.length ? el("ul", {}, ...items) : el("p", { class: "quiet" }, "Nothing in it yet."),
    form,
    el("h3", {}, "And if not"),
    button("part", `Part from ${me.bond.partner.display_name}`, part),
  ];
}

function requests(me, other) {
  const message = el("input", { "aria-label": "With these words", placeholder: "Shall we?", maxlength: 500 });
  const ask = async () => {
    const request = await me.ask(other, message.value);
    return request.bond ? became(me, other, request.bond) : `${me.name} asked ${other.name}${request.restorable_until ? " to come back" : ""}.`;
  };
  const form = el("form", {}, message, el("button", { class: "main", "data-do": "ask" }, `Ask ${other.name}`));
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    run(ask);
  });
  const incoming = me.incoming.items.map((request) => received(me, other, request));
  const outgoing = me.outgoing.items.map((request) => sent(me, request));
  return [
    el("h3", {}, "Ask"),
    form,
    incoming.length ? el("h3", {}, "Asked by") : null,
    incoming.length ? el("ul", {}, ...incoming) : null,
    outgoing.length ? el("h3", {}, "Waits for an answer") : null,
    outgoing.length ? el("ul", {}, ...outgoing) : null,
  ].filter((part) => part !== null);
}

function received(me, other, request) {
  const from = request.from.display_name;
  const accept = async () => {
    const { bond } = await me.answer(request, "accept");
    return became(me, { name: from }, bond);
  };
  const reject = async () => {
    await me.answer(request, "reject");
    return `${me.name} said no to ${from}.`;
  };
  return el(
    "li",
    {},
    el("strong", {}, from),
    request.message ? `: “${request.message}”` : "",
    restorable(request),
    el("div", { class: "row" }, button("accept", "Accept", accept, "main"), button("reject", "Reject", reject)),
  );
}

function sent(me, request) {
  const to = request.to.display_name ?? request.to.email;
  const cancel = async () => {
    await me.answer(request, "cancel");
    return `${me.name} took it back.`;
  };
  return el("li", {}, el("strong", {}, to), restorable(request), el("div", { class: "row" }, button("cancel", "Take it back", cancel)));
}

function restorable({ restorable_until: until }) {
  return until ? el("div", { class: "quiet" }, `Brings the former bond back, if accepted by ${day(until)}`) : null;
}

async function became(me, other, bond) {
  const { items } = await me.call("GET", "/api/v1/spaces/bond/notes");
  const things = items.length ? plural(items.length, "note", "notes") : "nothing yet";
  return bond.restored_at
    ? `${me.name} and ${other.name} are back together: the same bond, with ${things} in its space.`
    : `${me.name} and ${other.name} are partners: a fresh bond, with ${things} in its space.`;
}

function past(me) {
  const ended = me.history.items.filter((bond) => bond.ended_at);
  if (!ended.length) {
    return [];
  }
  const lines = ended.map((bond) => {
    const what = bond.archived_at ? "archived" : `can come back until ${day(bond.restorable_until)}`;
    return el("li", {}, bond.partner.display_name, el("span", { class: "quiet" }, ` ${day(bond.since)} – ${day(bond.ended_at)}, ${what}`));
  });
  return [el("h3", {}, "Over"), el("ul", {}, ...lines)];
}

for (const passes of document.querySelectorAll("[data-pass]")) {
  const pass = async () => {
    const clock = await call("POST", "/dev/clock", { advance: passes.dataset.pass });
    return `${passes.textContent.replace(/ pass(es)?$/, "")} went by in a second. It is ${day(clock.now)}.`;
  };
  passes.addEventListener("click", () => run(pass));
}

const verdict = document.getElementById("verdict");
const lifted = document.getElementById("lifted");

// What a check finds, and with the limits off: the same check, red.
async function judge() {
  const row = await call("POST", "/demo/checks/SEC-03");
  // The row may ask for more than its check, such as the results of tests: then it is judged as `kith verify` judges it.
  verdict.textContent = row.live;
  verdict.dataset.verdict = row.live;
  const seen = row.evidence.find((one) => one.kind === "live");
  const more = row.result === row.live ? row.why : `The row is ${row.result}: ${row.why}.`;
  document.getElementById("found").textContent = more;
  document.getElementById("found").title = seen ? seen.what : "";
  return `SEC-03: its check says ${row.live}; the row is ${row.result}.`;
}

document.getElementById("judge").addEventListener("click", () => run(judge));
lifted.addEventListener("change", () => run(async () => {
  const limits = await call("PUT", "/dev/limits", { lifted: lifted.checked });
  return `Limits ${limits.lifted ? "are off" : "hold"}. ${await judge()}`;
}));

run(async () => {
  lifted.checked = (await call("GET", "/dev/limits")).lifted;
  people = await call("GET", "/demo/people.json");
  for (const [side, one] of [["left", people[0]], ["right", people[1]]]) {
    shown[side] = new Person(one);
    await shown[side].signIn();
  }
  return `${shown.left.name} and ${shown.right.name} are signed in. Let one of them ask.`;
});
