// Figures that are still being computed, and runs that still go on: `#figures` is replaced by that of the page as it is
// now, every two seconds, as long as it says `data-pending`.

const EVERY = 2000;

function load() {
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest(); // its document is parsed by the browser, and its scripts never run
    request.responseType = "document";
    request.timeout = 20000;
    request.onload = () => (request.status === 200 && request.response ? resolve(request.response) : reject());
    request.onerror = request.ontimeout = reject;
    request.open("GET", location.href);
    request.send();
  });
}

// Somebody who types, has opened something, or stands on a link inside is not disturbed.
const busy = (part) => part.contains(document.activeElement) || part.querySelector("details[open]") !== null;

async function look() {
  const part = document.querySelector("#figures[data-pending]");
  if (!part) return;
  if (document.visibilityState === "visible" && !busy(part)) {
    try {
      const fresh = (await load()).querySelector("#figures");
      if (fresh && !busy(part)) part.replaceWith(document.importNode(fresh, true));
    } catch {
      // the next look may succeed
    }
  }
  setTimeout(look, EVERY);
}

setTimeout(look, EVERY);
document.documentElement.dataset.ready = "yes";
