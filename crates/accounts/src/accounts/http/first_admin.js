// The secret stands behind `#`, where no server and no log sees it, until it is asked for here.
const form = document.querySelector("form");
const status = document.querySelector("[role=status]");

form.addEventListener("submit", async (event) => {
  event.preventDefault();
  const body = { ...Object.fromEntries(new FormData(form)), secret: location.hash.slice(1) };
  const answer = await fetch("/api/v1/auth/first-admin", {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify(body),
  });
  if (answer.ok) {
    form.remove();
    history.replaceState(null, "", location.pathname);
    status.textContent = "Done. You are the administrator, and can sign in.";
    return;
  }
  const problem = await answer.json();
  const faults = (problem.errors ?? []).map((error) => `${error.pointer.slice(1)}: ${error.detail}`);
  status.textContent = [problem.title, problem.detail, ...faults].join(" ");
});
