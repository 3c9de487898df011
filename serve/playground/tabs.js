// Tabs as the WAI-ARIA practices have them: arrows, Home and End move, Tab goes on to the panel.

/** Makes the `role=tablist` work; the first tab is open. Returns a function that opens the tab of a panel. */
export function makeTabs(list) {
  const tabs = [...list.querySelectorAll("[role=tab]")];
  const panel = (tab) => document.getElementById(tab.getAttribute("aria-controls"));

  function open(chosen) {
    for (const tab of tabs) {
      tab.setAttribute("aria-selected", String(tab === chosen));
      tab.tabIndex = tab === chosen ? 0 : -1;
      panel(tab).hidden = tab !== chosen;
    }
  }

  list.addEventListener("click", (event) => {
    const tab = event.target.closest("[role=tab]");
    if (tab) open(tab);
  });
  list.addEventListener("keydown", (event) => {
    const at = tabs.indexOf(event.target);
    const to = { ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: -1 }[event.key];
    if (at < 0 || to === undefined) return;
    event.preventDefault();
    const tab = tabs.at(to % tabs.length);
    open(tab);
    tab.focus();
  });
  open(tabs[0]);
  return (id) => open(tabs.find((tab) => tab.getAttribute("aria-controls") === id));
}
