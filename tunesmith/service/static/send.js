// Sends one JSON body until the server took or refused it. `report(text)` hears why it is not through yet.

import { LONGEST_WAIT, pause, post } from "./post.js";

export async function send(url, body, report) {
  for (let wait = 1000; ; wait = Math.min(wait * 2, LONGEST_WAIT)) {
    const outcome = await post(url, body);
    if (!outcome.later) return outcome;
    report(`Not saved yet, will retry: ${outcome.later}`);
    await pause(wait).over;
  }
}
