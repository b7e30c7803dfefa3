"use strict";

// The policy of the page allows requests to this server only: no validator's badge.
const docs = document.getElementById("docs");
const order = (operation) => operation.getIn(["operation", "x-order"], 0);
window.ui = SwaggerUIBundle({
  url: docs.dataset.document,
  domNode: docs,
  deepLinking: true,
  displayRequestDuration: true,
  defaultModelsExpandDepth: -1,
  docExpansion: "list",
  filter: true,
  operationsSorter: (a, b) => order(a) - order(b),
  requestSnippetsEnabled: true,
  tryItOutEnabled: true,
  validatorUrl: null,
  onComplete: nameFilter,
});

// Swagger UI labels its filter by a placeholder alone.
function nameFilter() {
  const filter = document.querySelector(".operation-filter-input");
  if (filter) {
    filter.placeholder = "Filter by group: Partners, Jobs, …";
    filter.setAttribute("aria-label", "Filter operations by group");
  }
}

const dark = matchMedia("(prefers-color-scheme: dark)");
const follow = () => document.documentElement.classList.toggle("dark-mode", dark.matches);
dark.addEventListener("change", follow);
follow();

document.getElementById("sign-in").addEventListener("submit", async (event) => {
  event.preventDefault();
  const said = document.getElementById("signed-in");
  const { email, password } = Object.fromEntries(new FormData(event.target));
  try {
    const response = await fetch("/api/v1/auth/login", {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify({ email, password }),
    });
    const answer = await response.json();
    if (!response.ok) {
      said.textContent = answer.detail || answer.title;
      return;
    }
    window.ui.preauthorizeApiKey("bearer", answer.access_token);
    event.target.reset();
    said.textContent = `Signed in as ${email}. Requests from this page carry the access token until it expires.`;
  } catch {
    said.textContent = "The server cannot be reached. Check that it is running, and try again.";
  }
});
