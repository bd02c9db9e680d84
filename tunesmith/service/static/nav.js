// On a narrow screen the list of pages is longer than its line: show where one is.

const nav = document.querySelector(".bar nav");
const here = nav?.querySelector("[aria-current]");
if (here) nav.scrollLeft = here.offsetLeft - nav.offsetLeft - (nav.clientWidth - here.offsetWidth) / 2;
