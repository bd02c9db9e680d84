// Small things that outlive a page, where the browser allows it: settings for good, unfinished work until the tab closes.

function store(area) {
  const place = () => (area === "tab" ? sessionStorage : localStorage);
  return {
    recall(name) {
      try {
        return place().getItem(`tunesmith.${name}`) || "";
      } catch {
        return "";
      }
    },
    remember(name, value) {
      try {
        if (value) place().setItem(`tunesmith.${name}`, value);
        else place().removeItem(`tunesmith.${name}`);
      } catch {
        // then the next page starts without it
      }
    },
  };
}

export const settings = store("machine");
export const work = store("tab");
