// What happens when something is chosen, typed or pressed.

function refresh() {
  const matches = matcher(state);
  matching = rollouts.filter(matches);
  const shown = new Set(matching);
  for (const rollout of rollouts) rollout.cell.hidden = !shown.has(rollout);
  for (const group of groups) group.node.hidden = !group.rollouts.some((rollout) => shown.has(rollout));
  $("nothing").hidden = matching.length > 0;
  const text = matching.length === rollouts.length ? `${rollouts.length} rollouts` : `${matching.length} of ${rollouts.length} rollouts`;
  $("count").textContent = `${text} in ${groups.filter((group) => !group.node.hidden).length} groups`;
  document.documentElement.dataset.shown = matching.length;
  showFilters();
  timeline.show();
  const keep = stageView;
  const stays = chosen && shown.has(chosen);
  choose(stays ? chosen : (matching[0] ?? null));
  if (stays && keep) look(keep);
}

function move(by, { group = false } = {}) {
  if (!matching.length) return;
  const at = matching.indexOf(chosen);
  if (!group) return choose(matching[Math.min(matching.length - 1, Math.max(0, at + by))], { scroll: true });
  const shown = groups.filter((g) => !g.node.hidden);
  const wanted = shown[Math.min(shown.length - 1, Math.max(0, shown.indexOf(chosen?.home) + by))];
  choose(matching.find((rollout) => rollout.home === wanted), { scroll: true });
}

function theme() {
  const root = document.documentElement;
  const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  root.dataset.theme = dark ? "light" : "dark";
  writeAddress();
}

const KEYS = {
  j: () => move(1), ArrowDown: () => move(1),
  k: () => move(-1), ArrowUp: () => move(-1),
  J: () => move(1, { group: true }), ArrowRight: () => move(1, { group: true }),
  K: () => move(-1, { group: true }), ArrowLeft: () => move(-1, { group: true }),
  z: () => next("zoom"), r: () => next("right"), f: () => next("form"),
  t: theme, "?": () => $("keys").showModal(), "/": () => form.elements.q.focus(),
};

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || $("keys").open) return;
  const typing = event.target.matches("input, select");
  if (event.key === "Escape") return typing ? event.target.blur() : clear();
  if (typing) return;
  if (/^[1-9]$/.test(event.key)) return look(Number(event.key) - 1);
  if (event.key in KEYS) {
    event.preventDefault();
    KEYS[event.key]();
  }
});
window.addEventListener("hashchange", () => { readAddress(); refresh(); });
$("theme").addEventListener("click", theme);
$("help").addEventListener("click", () => $("keys").showModal());

$("note").textContent = data.note;
$("note").hidden = !data.note;
readAddress();
buildFilters();
buildGroups();
timeline();
refresh();
chosen?.home.node.scrollIntoView({ block: "nearest" });
document.documentElement.dataset.ready = "yes";
