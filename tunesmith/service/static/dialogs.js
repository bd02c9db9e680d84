// Opens a dialog and waits: the value of the button that closed it, "" for Esc.
export function ask(dialog) {
  dialog.returnValue = "";
  dialog.showModal();
  return new Promise((resolve) => {
    const closed = new AbortController();
    dialog.addEventListener("close", () => {
      if (dialog.open) return; // a late event of the time before
      closed.abort();
      resolve(dialog.returnValue);
    }, { signal: closed.signal });
  });
}
