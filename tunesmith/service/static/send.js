// Sends one JSON body until the server took or refused it. `report(text)` hears why it is not through yet.
// Every body carries an id made here: sending it twice stores it once.

const LONGEST_WAIT = 15_000;

export async function send(url, body, report) {
  for (let wait = 1000; ; wait = Math.min(wait * 2, LONGEST_WAIT)) {
    const outcome = await once(url, body);
    if (!outcome.later) return outcome;
    report(`Not saved yet, will retry: ${outcome.later}`);
    await pause(wait);
  }
}

// {data}, {refused, status} or {later}.
async function once(url, body) {
  let response;
  try {
    response = await fetch(url, {
      method: "POST",
      headers: { "content-type": "application/json" },
      body: JSON.stringify(body),
      signal: AbortSignal.timeout(20_000),
    });
  } catch {
    return { later: "the server cannot be reached" };
  }
  const answer = await response.json().catch(() => null);
  if (response.ok && answer) return { data: answer };
  const problem = answer?.error?.message ?? response.statusText;
  return response.status >= 500 || response.status === 429 ? { later: problem } : { refused: problem, status: response.status };
}

function pause(milliseconds) {
  return new Promise((resolve) => {
    const timer = setTimeout(done, milliseconds);
    addEventListener("online", done);
    function done() {
      clearTimeout(timer);
      removeEventListener("online", done);
      resolve();
    }
  });
}
