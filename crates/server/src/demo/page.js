// Renders both users and handles the buttons. Both users are fetched again after every action.

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

function button(action, label, act, style = "") {
  return el("button", { type: "button", class: style, "data-do": action, onclick: () => run(act) }, label);
}

// Form with one text field; `submit` gets the text.
function textForm(action, field, label, style, submit) {
  const input = el("input", { maxlength: 500, ...field.attributes });
  const form = el("form", {}, el("label", { class: "field" }, field.label, input), el("button", { class: style, "data-do": action }, label));
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    run(() => submit(input.value));
  });
  return form;
}

const day = (time) => new Date(time).toLocaleDateString(undefined, { dateStyle: "medium" });
const plural = (n, one, more) => `${n} ${n === 1 ? one : more}`;

// Runs an action, fetches both users again, and shows the message that the action returns or the error it throws.
async function run(act) {
  const focusAgain = rememberFocus();
  let message = "";
  let error = "";
  problem.hidden = true;
  document.body.inert = true;
  try {
    message = await act();
    await show();
  } catch (failure) {
    error = failure.message;
    await show().catch(() => {});
  }
  // Screen readers announce no changes within an inert page.
  document.body.inert = false;
  happened.textContent = error ? "The last action failed." : message;
  problem.textContent = error;
  problem.hidden = error === "";
  focusAgain();
  done += 1;
  document.body.dataset.done = done;
}

// Rendering replaces the focused element: afterwards its successor gets the focus, or the heading of the same user.
function rememberFocus() {
  const { activeElement: focused } = document;
  const side = focused.closest(".users > section")?.id;
  return () => {
    if (focused.isConnected) {
      focused.focus();
    } else if (side) {
      const successor = `#${side} ${focused.localName}${focused.dataset.do ? `[data-do=${focused.dataset.do}]` : ""}`;
      (document.querySelector(successor) ?? document.querySelector(`#${side} h2`)).focus();
    }
  };
}

async function show() {
  const clock = await call("GET", "/dev/clock");
  const now = document.getElementById("now");
  now.dateTime = clock.now;
  now.textContent = new Date(clock.now).toLocaleString(undefined, { dateStyle: "full", timeStyle: "short" });
  const days = Math.round(clock.offset_ms / 86_400_000);
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
    el("div", { class: "who" }, el("h2", { tabindex: -1 }, me.name), choice(side)),
    me.bond ? bonded(me) : free(me),
    ...(me.bond ? space(me) : requests(me, other)),
    ...past(me),
  );
}

function choice(side) {
  const options = people.map((one) => el("option", { value: one.name }, one.name));
  const select = el("select", { onchange: () => run(() => choose(side, select.value)) }, ...options);
  select.value = shown[side].name;
  return el("label", { class: "quiet" }, "Signed in as ", select);
}

async function choose(side, name) {
  const other = sides.find((one) => one !== side);
  const found = people.find((one) => one.name === name);
  if (shown[other]?.name === name) {
    shown[other] = shown[side];
  }
  shown[side] = new Person(found);
  await shown[side].signIn();
  return `${name} is signed in.`;
}

function bonded({ bond }) {
  const restored = bond.restorations ? `, restored ${bond.restorations === 1 ? "once" : `${bond.restorations} times`}` : "";
  const since = ` since ${day(bond.since)}${restored}`;
  return el("p", { class: "state" }, el("strong", {}, `Partner of ${bond.partner.display_name}`), since);
}

function free() {
  return el("p", { class: "state" }, "No partner");
}

function space(me) {
  const items = me.notes.items.map((note) => el("li", { "data-note": note.id }, note.data.text ?? JSON.stringify(note.data)));
  const write = async (text) => {
    await me.write(text);
    return `${me.name} added a note to the shared space.`;
  };
  const part = async () => {
    const { bond } = await me.part();
    return `${me.name} ended the bond with ${bond.partner.display_name}. They can restore it until ${day(bond.restorable_until)}.`;
  };
  const partner = me.bond.partner.display_name;
  return [
    el("h3", {}, "Shared notes"),
    items.length ? el("ul", {}, ...items) : el("p", { class: "quiet" }, "No notes yet"),
    textForm("write", { label: "New note", attributes: { required: "" } }, "Add note", "", write),
    el(
      "div",
      { class: "row" },
      button("part", `End bond with ${partner}`, part),
      el("span", { class: "quiet" }, "For both users; restorable for 30 days"),
    ),
  ];
}

function requests(me, other) {
  const ask = async (message) => {
    const request = await me.ask(other, message);
    if (request.bond) {
      return became(me, other, request.bond);
    }
    const purpose = request.restorable_until ? "a request to restore their bond" : "a partner request";
    return `${me.name} sent ${other.name} ${purpose}.`;
  };
  const incoming = me.incoming.items.map((request) => received(me, request));
  const outgoing = me.outgoing.items.map((request) => sent(me, request));
  return [
    el("h3", {}, "Send a partner request"),
    textForm("ask", { label: "Message (optional)" }, `Send request to ${other.name}`, "main", ask),
    incoming.length ? el("h3", {}, "Received requests") : null,
    incoming.length ? el("ul", {}, ...incoming) : null,
    outgoing.length ? el("h3", {}, "Sent requests, waiting for an answer") : null,
    outgoing.length ? el("ul", {}, ...outgoing) : null,
  ].filter((part) => part !== null);
}

function received(me, request) {
  const from = request.from.display_name;
  const accept = async () => {
    const { bond } = await me.answer(request, "accept");
    return became(me, { name: from }, bond);
  };
  const reject = async () => {
    await me.answer(request, "reject");
    return `${me.name} rejected the request from ${from}.`;
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
    return `${me.name} cancelled the request to ${to}.`;
  };
  return el("li", {}, el("strong", {}, to), restorable(request), el("div", { class: "row" }, button("cancel", "Cancel request", cancel)));
}

function restorable({ restorable_until: until }) {
  return until ? el("div", { class: "quiet" }, `Restores the former bond if accepted by ${day(until)}`) : null;
}

async function became(me, other, bond) {
  const { items } = await me.call("GET", "/api/v1/spaces/bond/notes");
  const notes = items.length ? plural(items.length, "note", "notes") : "no notes";
  return bond.restored_at
    ? `${me.name} and ${other.name} are partners again: the same bond, with ${notes} in its shared space.`
    : `${me.name} and ${other.name} are partners: a new bond, with ${notes} in its shared space.`;
}

function past(me) {
  const ended = me.history.items.filter((bond) => bond.ended_at);
  if (!ended.length) {
    return [];
  }
  const lines = ended.map((bond) => {
    const what = bond.archived_at ? "archived" : `restorable until ${day(bond.restorable_until)}`;
    return el("li", {}, el("strong", {}, bond.partner.display_name), el("span", { class: "quiet" }, ` ${day(bond.since)} – ${day(bond.ended_at)}, ${what}`));
  });
  return [el("h3", {}, "Former bonds"), el("ul", {}, ...lines)];
}

for (const passes of document.querySelectorAll("[data-pass]")) {
  const pass = async () => {
    const clock = await call("POST", "/dev/clock", { advance: passes.dataset.pass });
    const days = passes.textContent.replace("Advance ", "");
    return `The server clock advanced by ${days}. It is ${day(clock.now)} now.`;
  };
  passes.addEventListener("click", () => run(pass));
}

const verdict = document.getElementById("verdict");
const switchOff = document.getElementById("limits-off");

// Runs check SEC-03. The row of the catalogue may require more evidence than the live check, such as test results, so
// the outcomes of both are shown, as `kith verify` does.
async function judge() {
  const row = await call("POST", "/demo/checks/SEC-03");
  verdict.textContent = row.live;
  verdict.dataset.verdict = row.live;
  const observed = row.evidence.find((one) => one.kind === "live");
  const found = document.getElementById("found");
  found.textContent = row.result === row.live ? row.reason : `The row as a whole is “${row.result}”: ${row.reason}.`;
  found.title = observed ? observed.action : "";
  return `Check SEC-03: the live check returned “${row.live}”, the row as a whole is “${row.result}”.`;
}

document.getElementById("judge").addEventListener("click", () => run(judge));
switchOff.addEventListener("change", () => run(async () => {
  const limits = await call("PUT", "/dev/limits", { disabled: switchOff.checked });
  return `Rate limits are ${limits.disabled ? "off" : "on"}. ${await judge()}`;
}));

run(async () => {
  switchOff.checked = (await call("GET", "/dev/limits")).disabled;
  people = await call("GET", "/demo/people.json");
  for (const [side, one] of [["left", people[0]], ["right", people[1]]]) {
    shown[side] = new Person(one);
    await shown[side].signIn();
  }
  return `${shown.left.name} and ${shown.right.name} are signed in. Each card shows what its user sees.`;
});
