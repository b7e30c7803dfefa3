// Compiles only if the generated types say what the API takes and gives.
import type { components, paths } from "./api.js";

type Schemas = components["schemas"];

const item: Schemas["ItemBody"] = { data: { title: "Shopping", amounts: [1, 2], nested: { any: null } } };
const job: Schemas["NewJobBody"] = {
  kind: "thumbnails.make",
  payload: { url: "https://example.org/a.jpg" },
  on_failure: "run",
  unique: { key: "a", on_conflict: "debounce", period_ms: 1_000 },
};
const failed: Schemas["FailBody"] = { lease_token: "1f", error: "no network", action: "retry" };
const kind: Schemas["JobKindBody"] = { schema: { type: "object", properties: { url: { type: "string" } } } };
const title: unknown = (item as Schemas["ItemBody"]).data["title"];

// A public operation is called without a token, and a conditional write takes If-Match.
type Register = paths["/api/v1/auth/register"]["post"];
type Replace = paths["/api/v1/spaces/{space}/{collection}/{id}"]["put"];
const conditional: NonNullable<Replace["parameters"]["header"]>["If-Match"] = '"abc"';
const register: Register["requestBody"]["content"]["application/json"] = {
  email: "ada@example.org",
  password: "correct horse battery",
  display_name: "Ada",
};

export { conditional, failed, job, kind, register, title };
