// Browsers do not send the part of an address behind `#`, so the secret reaches the server only in the request below.
const secret = location.hash.slice(1);
const form = document.querySelector("form");
const status = document.querySelector("[role=status]");
const problem = document.querySelector("[role=alert]");

function showProblem(text) {
  problem.textContent = text;
  problem.hidden = text === "";
}

async function createAdministrator() {
  const response = await fetch("/api/v1/auth/first-admin", {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify({ ...Object.fromEntries(new FormData(form)), secret }),
  });
  if (response.ok) {
    form.remove();
    history.replaceState(null, "", location.pathname);
    status.textContent = "The administrator account is created. You can sign in with it now.";
    document.getElementById("next").hidden = false;
    return;
  }
  const { title, detail, errors = [] } = await response.json();
  const faults = errors.map((error) => `${error.pointer.slice(1)}: ${error.detail}`);
  showProblem([`${title}.`, detail, ...faults].join(" "));
}

form.addEventListener("submit", async (event) => {
  event.preventDefault();
  showProblem("");
  try {
    await createAdministrator();
  } catch {
    showProblem("The server cannot be reached. Check that it is running, then try again.");
  }
});

if (secret === "") {
  showProblem("The address is incomplete: the secret behind # is missing. Open the whole link from the server's output or file.");
}
