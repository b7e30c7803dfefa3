// API client of one user: their session, and the data that the API shows them.

const JSON_BODY = { "Content-Type": "application/json" };
const REQUESTS = "/api/v1/partners/requests";
const NOTES = "/api/v1/spaces/bond/notes";

// Problem that the API returned; the message is its status, code, title, detail and invalid fields.
export class Refusal extends Error {
  constructor(answer, problem) {
    const faults = (problem.errors ?? []).map((fault) => `${fault.pointer}: ${fault.detail}`);
    super([`${answer.status} ${problem.code}: ${problem.title}.`, problem.detail, ...faults].join(" "));
    this.status = answer.status;
  }
}

export async function call(method, path, body, token) {
  const headers = { ...(body ? JSON_BODY : {}), ...(token ? { Authorization: `Bearer ${token}` } : {}) };
  const answer = await fetch(path, { method, headers, body: body && JSON.stringify(body) }).catch(() => {
    throw new Error("The server cannot be reached. Check that it is running, then try again.");
  });
  document.dispatchEvent(new CustomEvent("called", { detail: `${method} ${path} → ${answer.status}` }));
  const said = answer.status === 204 ? null : await answer.json();
  if (!answer.ok) {
    throw new Refusal(answer, said);
  }
  return said;
}

export class Person {
  constructor({ name, email, password }) {
    this.name = name;
    this.credentials = { email, password };
  }

  async signIn() {
    const session = await call("POST", "/api/v1/auth/login", this.credentials);
    this.id = session.user.id;
    this.token = session.access_token;
  }

  // Advancing the clock may have expired the session: in that case, signs in again and repeats the request.
  async call(method, path, body) {
    if (!this.token) {
      await this.signIn();
    }
    try {
      return await call(method, path, body, this.token);
    } catch (refusal) {
      if (refusal.status !== 401) {
        throw refusal;
      }
      await this.signIn();
      return call(method, path, body, this.token);
    }
  }

  // Fetches all data that their card shows.
  async look() {
    const [{ bond }, incoming, outgoing, history] = [
      await this.call("GET", "/api/v1/partners/current"),
      await this.call("GET", `${REQUESTS}?direction=incoming&status=pending`),
      await this.call("GET", `${REQUESTS}?direction=outgoing&status=pending`),
      await this.call("GET", "/api/v1/partners/history?limit=5"),
    ];
    const notes = bond ? await this.call("GET", NOTES) : { items: [] };
    Object.assign(this, { bond, incoming, outgoing, history, notes });
  }

  ask(other, message) {
    return this.call("POST", REQUESTS, { to: { user_id: other.id }, ...(message ? { message } : {}) });
  }

  answer(request, how) {
    return this.call("POST", `${REQUESTS}/${request.id}/${how}`);
  }

  part() {
    return this.call("POST", "/api/v1/partners/breakup", {});
  }

  write(text) {
    return this.call("POST", NOTES, { data: { text } });
  }
}
