// One JSON body on its way to the server. Each carries an id made here: sending it twice stores it once.

// Not crypto.randomUUID: browsers have it on https and loopback only.
export const newId = () =>
  Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");

// Whose page this is. Somebody else may have signed in since, in another tab: the server then takes nothing from it.
export const person = document.body.dataset.person ?? "";

// What became of it: {data}, {refused: message, status, newest} (it will never be taken; 409: others or another window
// were faster) or {later: message}, with `offline` if nothing answered at all.
export async function post(url, body) {
  let response;
  try {
    response = await fetch(url, {
      method: "POST",
      headers: { "content-type": "application/json", "x-labeler": encodeURIComponent(person) },
      body: JSON.stringify(body),
      signal: AbortSignal.timeout(20_000),
    });
  } catch {
    return { later: "the server cannot be reached", offline: true };
  }
  const answer = await response.json().catch(() => null);
  if (response.ok && answer) return { data: answer };
  const problem = answer?.error?.message ?? response.statusText;
  const { status } = response;
  if (status === 401 && answer?.error?.code !== "other_account") return { later: "you are signed out. Sign in again in another tab" };
  return status === 401 || status === 429 || status >= 500 || response.ok ? { later: problem }
    : { refused: problem, status, newest: answer?.newest };
}

// Waits so long, or until the connection is back, or until `wake` of what it returns is called.
export function pause(milliseconds) {
  let wake;
  const over = new Promise((resolve) => { wake = resolve; });
  const timer = setTimeout(wake, milliseconds);
  addEventListener("online", wake);
  over.then(() => {
    clearTimeout(timer);
    removeEventListener("online", wake);
  });
  return { over, wake };
}

export const LONGEST_WAIT = 15_000;
