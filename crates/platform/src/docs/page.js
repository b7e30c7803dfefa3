"use strict";

// Nothing is fetched from elsewhere: no validator's badge, and the policy of the page would refuse it.
const docs = document.getElementById("docs");
window.ui = SwaggerUIBundle({
  url: docs.dataset.document,
  domNode: docs,
  deepLinking: true,
  validatorUrl: null,
  displayRequestDuration: true,
  tryItOutEnabled: true,
  requestSnippetsEnabled: true,
});

const link = document.createElement("a");
link.href = docs.dataset.document;
link.textContent = "OpenAPI document";
docs.before(link);
