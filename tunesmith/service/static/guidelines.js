// "I have read this": stored, then on to the ranking.

const button = document.getElementById("read");
const status = document.getElementById("status");

button.addEventListener("click", async () => {
  button.disabled = true;
  status.textContent = "Saving …";
  try {
    const response = await fetch(`/api/sets/${encodeURIComponent(button.dataset.set)}/guidelines`, {
      method: "POST",
      headers: { "content-type": "application/json" },
      body: JSON.stringify({ version: Number(button.dataset.version) }),
    });
    if (response.ok) return location.reload();
    status.textContent = (await response.json()).error.message;
  } catch {
    status.textContent = "The server cannot be reached. Try again.";
  }
  button.disabled = false;
});
document.documentElement.dataset.ready = "yes";
