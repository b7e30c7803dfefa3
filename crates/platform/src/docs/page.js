"use strict";

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
  // The page's policy allows requests to this server only, so there is no validator.
  validatorUrl: null,
  onComplete() {
    document.getElementById("version").textContent = `Version ${window.ui.specSelectors.version()}`;
    labelFilter();
  },
});

// Swagger UI's filter has a placeholder but no label.
function labelFilter() {
  const filter = document.querySelector(".operation-filter-input");
  if (filter) {
    filter.placeholder = "Filter by group: Partners, Jobs, …";
    filter.setAttribute("aria-label", "Filter operations by group");
  }
}

// Swagger UI follows links to operations only when it loads.
addEventListener("hashchange", () => {
  window.ui.layoutActions.parseDeepLinkHash(location.hash);
  document.getElementById(`operations${location.hash.slice(1).replaceAll("/", "-")}`)?.scrollIntoView();
});

// Swagger UI's dark colors depend on a class instead of a media query.
const dark = matchMedia("(prefers-color-scheme: dark)");
const followScheme = () => document.documentElement.classList.toggle("dark-mode", dark.matches);
dark.addEventListener("change", followScheme);
followScheme();

document.getElementById("sign-in").addEventListener("submit", async (event) => {
  event.preventDefault();
  const form = event.target;
  const { email, password } = Object.fromEntries(new FormData(form));
  showProblem("");
  try {
    const response = await fetch("/api/v1/auth/login", {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify({ email, password }),
    });
    const body = await response.json();
    if (!response.ok) {
      showProblem([body.title, body.detail].filter(Boolean).join(": "));
      return;
    }
    window.ui.preauthorizeApiKey("bearer", body.access_token);
    form.reset();
    document.getElementById("signed-in").textContent =
      `Signed in as ${email}. Requests from this page carry the access token until it expires.`;
  } catch {
    showProblem("The server cannot be reached. Check that it is running, then try again.");
  }
});

function showProblem(text) {
  const problem = document.getElementById("problem");
  problem.textContent = text;
  problem.hidden = text === "";
}
